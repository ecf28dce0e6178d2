"""Gates for what logits on plain text hide: settings, stored scales of the cache, tensors that no rounding explains,
what lies beside the decoder of a vision-language model.

A wrong chat template changes no logit of a plain text, a zeroed head of one in thousand few. These gates appear only
where they fail; each finding becomes a note.

Not here: which tensor is broken how (causes.py, for `doctor`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

from bitwright.core.findings import Diagnosis
from bitwright.core.records import Estimate, Gate
from bitwright.evaluation.weights import WeightsCheck
from bitwright.facts.doctor_rules import diagnosis
from bitwright.formats.claims import Claim

WEIGHTS = "every tensor is the reference's, but for rounding"
SOURCES = {
    "settings": "constants, tokenizer and template are the reference's",
    "vision": "every tensor beside the decoder is the reference's, but for rounding",
}
NAMED = 3  # tensors in a note


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Soundness:
    """Gates that failed, and why."""

    gates: tuple[Gate, ...] = ()
    notes: tuple[str, ...] = ()
    findings: tuple[Diagnosis, ...] = ()


def claim_findings(claims: Iterable[Claim]) -> list[Diagnosis]:
    """False words of a `quantization_config`."""
    return [
        diagnosis("quantization-config", f"quantization_config.{key}", part="settings", key=key, found=said,
                  expected=stored, seen=where)
        for key, said, stored, where in claims
    ]  # fmt: skip


def judge_findings(measure: str, findings: Sequence[Diagnosis]) -> Soundness:
    """One gate over all that is wrong of `settings` or `vision`; warnings become notes only."""
    wrong = [finding for finding in findings if finding.severity == "error"]
    notes = tuple(f"{finding.where}: {finding.says}" for finding in findings)
    gates = (_gate(measure, len(wrong), SOURCES[measure]),) if wrong else ()
    return Soundness(gates=gates, notes=notes, findings=tuple(findings))


def judge_weights(check: WeightsCheck) -> Soundness:
    """One gate over all tensors that are broken."""
    names = [tensor.name for tensor in check.broken] + list(check.missing)
    if not names:
        return Soundness(notes=_transformed(check))
    shown = ", ".join(f"`{name}`" for name in names[:NAMED])
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    note = f"rounding does not explain {shown}{more}: `bitwright doctor` says how they are broken"
    return Soundness(gates=(_gate("weights", len(names), WEIGHTS),), notes=(note, *_transformed(check)))


def together(parts: Iterable[Soundness]) -> Soundness:
    """All gates and notes."""
    held = list(parts)
    return Soundness(
        gates=tuple(gate for part in held for gate in part.gates),
        notes=tuple(note for part in held for note in part.notes),
        findings=tuple(finding for part in held for finding in part.findings),
    )


def _transformed(check: WeightsCheck) -> tuple[str, ...]:
    if not check.transformed:
        return ()
    return ("most tensors are far from the reference's: the model was rotated or trained further, or is another one",)


def _gate(measure: str, count: int, source: str) -> Gate:
    value = float(count)
    estimate = Estimate(value=value, low=value, high=value)
    return Gate(measure=measure, limit=0.0, estimate=estimate, verdict="FAIL", source=source)
