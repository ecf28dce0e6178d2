"""A plan in words: rows for tables and plain lines. No colour, no width: the command line paints.

Not here: the decisions themselves (decide.py).
"""

from __future__ import annotations

import collections
import dataclasses
import math

from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.units import format_bytes
from bitwright.planner.ways import figures, option_rows, refused_rows


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Rows.

    `summary`: what, value. `reasons`: choice, because, source. `types`: type, tensors, parameters, bytes. `ways`: the
    best ways to serve the model under `ways.COLUMNS`, `all_ways` all, `refused`: way, because, source.
    """

    summary: tuple[tuple[str, str], ...]
    reasons: tuple[tuple[str, str, str], ...]
    types: tuple[tuple[str, int, int, int], ...]
    warnings: tuple[str, ...]
    ways: tuple[tuple[str, ...], ...] = ()
    all_ways: tuple[tuple[str, ...], ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()


def explain(plan: Plan) -> Explanation:
    """The rows of a plan; types by size, largest first."""
    groups: dict[str, list[TensorPlan]] = collections.defaultdict(list)
    for tensor in plan.tensors:
        groups[tensor.scheme.label].append(tensor)
    types = [
        (label, len(held), sum(math.prod(tensor.shape) for tensor in held), sum(tensor.bytes for tensor in held))
        for label, held in groups.items()
    ]
    return Explanation(
        summary=_summary(plan),
        reasons=tuple((reason.choice, reason.because, reason.source) for reason in plan.reasons),
        types=tuple(sorted(types, key=lambda row: -row[3])),
        warnings=plan.warnings,
        ways=option_rows(plan, whole=False),
        all_ways=option_rows(plan, whole=True),
        refused=refused_rows(plan),
    )


def explain_lines(plan: Plan) -> list[str]:
    """The same as plain lines."""
    told = explain(plan)
    width = max(len(what) for what, _ in told.summary)
    lines = [f"{what:<{width}}  {value}" for what, value in told.summary]
    lines += ["", "why"]
    lines += [f"  {choice}: {because} [{source}]" for choice, because, source in told.reasons]
    lines += ["", "tensors"]
    lines += [f"  {label}: {count} tensors, {format_bytes(size)}" for label, count, _, size in told.types]
    lines += [f"warning: {warning}" for warning in told.warnings]
    return lines


def _summary(plan: Plan) -> tuple[tuple[str, str], ...]:
    model, memory = plan.model, plan.memory
    return (
        ("model", f"{model.path} ({model.architecture}, {model.parameters / 1e6:.1f} million parameters)"),
        *([("adapter", f"{model.adapter}, merged as the model is read")] if model.adapter else []),
        ("device", f"{plan.device.count} x {plan.device.name}" if plan.device.count > 1 else plan.device.name),
        ("use case", plan.use_case),
        ("format", f"{plan.format} {plan.type}, {plan.method} ({plan.effort})"),
        ("file", f"{format_bytes(plan.file_bytes)}, {plan.bits_per_weight:.2f} bits per weight"),
        ("original", f"{format_bytes(model.bytes)} {model.dtype}"),
        ("memory", f"{format_bytes(memory.total)} of {format_bytes(memory.available)} at {memory.context} tokens"),
        *figures(plan),
        ("launch", " ".join(plan.launch)),
    )
