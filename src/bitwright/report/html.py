"""The report: one HTML file for people who were not there.

The verdict and its sentence come first, then the figures it rests on, then everything that lets a sceptic check it.
The file stands alone: style and charts are inline, there is no script, and a content security policy forbids every
request. Everything that comes from a record is escaped: names of files and tokens of texts are not ours.
Not here: the charts (charts.py, figures.py), the wording of sections (template.html.j2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bitwright.core.plan import Plan
from bitwright.core.records import (
    Estimate,
    Gate,
    Provenance,
    QuantRecord,
    SpeedPoint,
    SpeedRecord,
    TensorRecord,
    ValidationRecord,
)
from bitwright.core.units import format_bytes, format_seconds
from bitwright.report import figures, pareto, rows
from bitwright.report.limits import not_measured

MEASURES = {
    "kl_mean": "mean KL (nats per token)",
    "perplexity_delta": "change of perplexity",
    "perplexity_ratio": "perplexity, artifact over original",
    "top1_flips": "other top token (share)",
    "kl_p99": "KL that 99 of 100 tokens stay below (nats)",
    "finite_logits": "windows without numbers",
}
WORDS = {"PASS": "good enough", "FAIL": "not good enough", "INCONCLUSIVE": "not settled"}
ORDER = ("FAIL", "INCONCLUSIVE", "PASS")
VISIBLE = str.maketrans({"\n": "↵", "\t": "⇥", "\r": "␍"})


def render(
    plan: Plan | None,
    quant: QuantRecord | None,
    validation: ValidationRecord,
    speed: SpeedRecord | None = None,
    *,
    others: Sequence[ValidationRecord] = (),
) -> str:
    """The whole page. `others` are validations of other artifacts of the same model, drawn beside this one.

    Without a `plan`, as for an artifact of another tool, what was decided and how it is served is left out.
    """
    original_bytes = plan.model.bytes if plan else validation.reference_bytes
    return (
        environment()
        .get_template("template.html.j2")
        .render(
            plan=plan,
            quant=quant,
            validation=validation,
            speed=speed,
            title=last_part(validation.artifact),
            word=WORDS[validation.verdict],
            sentence=verdict_sentence(validation),
            next_step=next_step(validation),
            not_measured=not_measured(plan, validation, speed),
            rows=rows,
            cards=_cards(plan.type if plan else "", original_bytes, validation, speed),
            original_bytes=original_bytes,
            parameters=plan.model.parameters if plan else validation.parameters,
            measures=MEASURES,
            gates=sorted(validation.gates, key=lambda gate: ORDER.index(gate.verdict)),
            figures=figures,
            pareto=pareto,
            others=others,
            kinds=_kinds(quant.tensors) if quant else [],
            fallbacks=_fallbacks(quant.tensors) if quant else [],
            makers=_makers(quant, validation, speed),
        )
    )


def environment() -> Environment:
    """Templates that escape everything and miss nothing."""
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(
        size=format_bytes,
        duration=format_seconds,
        digits=digits,
        span=span,
        visible=visible,
        percent=percent,
        last=last_part,
    )
    return found


def verdict_sentence(validation: ValidationRecord) -> str:
    """The verdict as one plain sentence."""
    name, use = last_part(validation.artifact), validation.use_case
    if validation.verdict == "PASS":
        worst = max(validation.texts, key=lambda text: text.kl_mean.value)
        return (
            f"{name} predicts nearly as its original does: on every text it stays within what {use} tolerates, "
            f"with an average departure of {digits(worst.kl_mean.value)} nats per token."
        )
    blamed = [gate for gate in validation.gates if gate.verdict == validation.verdict]
    listing = "; ".join(_blame(gate) for gate in blamed[:3])
    if validation.verdict == "FAIL":
        return f"{name} departs from its original by more than {use} tolerates: {listing}."
    return f"There was too little text to tell whether {name} is good enough for {use}: {listing}."


def next_step(validation: ValidationRecord) -> str:
    """What to do about the verdict; nothing after PASS."""
    if validation.verdict == "PASS":
        return ""
    if validation.verdict == "FAIL":
        return (
            "Next: take a type that keeps more bits, calibrate on text like yours, or let "
            "bitwright doctor look for a tensor that is broken."
        )
    more = [gate.windows_more for gate in validation.gates if gate.verdict == "INCONCLUSIVE" and gate.windows_more]
    many = f"about {max(more)} more windows would decide it; " if more else ""
    return f"Next: {many}bitwright validate with --until-decided adds windows until nothing is open."


def digits(value: float) -> str:
    """Three significant digits below one and four above, without powers of ten for everyday sizes."""
    if value and (abs(value) < 1e-4 or abs(value) >= 1e5):
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def span(estimate: Estimate) -> str:
    """`0.0774 (0.0701 to 0.0846)`."""
    return f"{digits(estimate.value)} ({digits(estimate.low)} to {digits(estimate.high)})"


def percent(value: float) -> str:
    """`0.842` → `84.2 %`."""
    return f"{100 * value:.1f} %"


def visible(text: str) -> str:
    """Line breaks and tabs as signs, and a mark for a token that is a space or nothing."""
    return text.translate(VISIBLE).replace(" ", "\u00a0" if not text.strip() else " ") or "∅"


def _blame(gate: Gate) -> str:
    if gate.measure == "finite_logits":
        return f"{gate.estimate.value:.0f} windows of {gate.text} gave no numbers at all"
    measure = MEASURES.get(gate.measure, gate.measure)
    return f"{measure} on {gate.text} is {span(gate.estimate)}, the limit is {gate.limit:g}"


def _cards(
    kind: str, original_bytes: int, validation: ValidationRecord, speed: SpeedRecord | None
) -> list[tuple[str, str, str]]:
    """(label, figure, small print) of the figures that belong beside the verdict."""
    share = percent(validation.artifact_bytes / original_bytes) if original_bytes else ""
    beside = [f"{share} of {format_bytes(original_bytes)}"] if share else []
    cards = [("Size", format_bytes(validation.artifact_bytes), ", ".join([*beside, *([kind] if kind else [])]))]
    if validation.texts:
        text = max(validation.texts, key=lambda text: text.kl_mean.value)
        limit = next((gate.limit for gate in validation.gates if gate.measure == "kl_mean"), None)
        held = f", limit {limit:g}" if limit is not None else ""
        where = f", on {text.name}" if len(validation.texts) > 1 else ""
        cards += [
            (
                "Mean KL",
                digits(text.kl_mean.value),
                f"{digits(text.kl_mean.low)} to {digits(text.kl_mean.high)}{held}{where}",
            ),
            (
                "Perplexity",
                f"{text.perplexity_reference.value:.2f} → {text.perplexity_artifact.value:.2f}",
                f"change {text.perplexity_delta.low:+.2f} to {text.perplexity_delta.high:+.2f}",
            ),
            (
                "Same top token",
                percent(text.top1_agreement.value),
                f"{percent(text.top1_agreement.low)} to {percent(text.top1_agreement.high)} of predictions",
            ),
        ]
    if speed and len(speed.points) > 1:
        small, large = _ends(speed.points)
        cards.append(
            (
                "Writing speed",
                f"{small.decode_tokens_s / large.decode_tokens_s:.2f}×",
                f"{digits(small.decode_tokens_s)} against {digits(large.decode_tokens_s)} tokens/s of {large.name}",
            )
        )
    return cards


def _ends(points: Sequence[SpeedPoint]) -> tuple[SpeedPoint, SpeedPoint]:
    """The smallest file, which is the artifact, and the largest, which is the float one."""
    return min(points, key=lambda point: point.bytes), max(points, key=lambda point: point.bytes)


def _kinds(tensors: Iterable[TensorRecord]) -> list[dict[str, Any]]:
    """What was done, by scheme and method, largest first."""
    groups: dict[tuple[str, str], list[TensorRecord]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.scheme, tensor.method), []).append(tensor)
    rows = []
    for (scheme, method), members in groups.items():
        errors = [tensor.output_error for tensor in members if tensor.output_error is not None]
        rows.append(
            {
                "scheme": scheme,
                "method": method,
                "count": len(members),
                "bytes": sum(tensor.bytes for tensor in members),
                "weight_error": sum(tensor.weight_error for tensor in members) / len(members),
                "worst": max(errors) if errors else None,
            }
        )
    return sorted(rows, key=lambda row: -row["bytes"])


def _fallbacks(tensors: Iterable[TensorRecord]) -> list[tuple[str, list[str]]]:
    """Each distinct note with the tensors that carry it."""
    notes: dict[str, list[str]] = {}
    for tensor in tensors:
        for note in tensor.notes:
            notes.setdefault(note, []).append(tensor.name)
    return list(notes.items())


def _makers(
    quant: QuantRecord | None, validation: ValidationRecord, speed: SpeedRecord | None
) -> list[tuple[str, Provenance]]:
    makers = [("quantize", quant.provenance)] if quant else []
    makers.append(("validate", validation.provenance))
    return [*makers, ("speed", speed.provenance)] if speed else makers


def last_part(path: str) -> str:
    """Name of the file or folder at a path."""
    return path.rstrip("/").rpartition("/")[2] or path
