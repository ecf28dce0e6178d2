"""How well calibration reached the experts: a summary of what every expert's records say.

Source: expert_inputs.py for the bound.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.core.plan import Plan
from bitwright.core.records import ExpertCoverage, TensorRecord
from bitwright.pipeline.expert_inputs import least_tokens


def expert_coverage(plan: Plan, records: Iterable[TensorRecord]) -> ExpertCoverage | None:
    """Counts over all experts of all blocks; `None` for a dense model, or where no text was read."""
    inputs = {entry.name: entry.shape[-1] for entry in plan.tensors}
    tokens: dict[str, int] = {}
    needed: dict[str, int] = {}
    for record in records:
        if record.tokens is None:
            continue
        expert = record.name.removesuffix(".weight").rpartition(".")[0]
        tokens[expert] = record.tokens
        needed[expert] = max(needed.get(expert, 0), least_tokens(inputs[record.name]))
    if not tokens:
        return None
    return ExpertCoverage(
        experts=len(tokens),
        covered=sum(tokens[expert] >= needed[expert] for expert in tokens),
        fewest_tokens=min(tokens.values()),
        most_tokens=max(tokens.values()),
    )
