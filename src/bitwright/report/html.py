"""The report: one HTML file for people who were not there.

The verdict and its sentence come first, then the figures it rests on, then everything that lets a sceptic check it.
The file stands alone: style and charts are inline, there is no script, and a content security policy forbids every
request. Everything that comes from a record is escaped: names of files and tokens of texts are not ours.
Not here: the charts (charts.py, figures.py), the wording of sections (template.html.j2).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bitwright.core.measures import measure
from bitwright.core.plan import Plan
from bitwright.core.records import (
    Provenance,
    QuantRecord,
    SpeedPoint,
    SpeedRecord,
    TensorRecord,
    ValidationRecord,
)
from bitwright.core.units import format_bytes, format_seconds
from bitwright.report import behaviour, figures, pareto, rows
from bitwright.report.limits import not_measured
from bitwright.report.numbers import digits, ends, percent, share_span, span
from bitwright.report.verdict_words import (
    by_how_much,
    figure,
    last_part,
    next_step,
    rests_on,
    verdict_sentence,
)

WORDS = {"PASS": "good enough", "FAIL": "not good enough", "INCONCLUSIVE": "not settled"}
ORDER = ("FAIL", "INCONCLUSIVE", "PASS")
WORST = 6  # matrices
ONE_LINE = 90  # characters
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
            rests_on=rests_on(validation),
            next_step=next_step(validation),
            not_measured=not_measured(plan, validation, speed),
            rows=rows,
            cards=_cards(plan.type if plan else "", original_bytes, validation, speed),
            original_bytes=original_bytes,
            parameters=plan.model.parameters if plan else validation.parameters,
            measure=measure,
            notes=_notes(validation),
            gates=sorted(validation.gates, key=lambda gate: ORDER.index(gate.verdict)),
            figures=figures,
            behaviour=behaviour,
            pareto=pareto,
            others=others,
            worst_tensors=_worst_tensors(quant.tensors) if quant else [],
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
        share_span=share_span,
        figure=figure,
        how_much=by_how_much,
        ends=ends,
        command=copyable,
        visible=visible,
        percent=percent,
        last=last_part,
    )
    return found


def visible(text: str) -> str:
    """Line breaks and tabs as signs, and a mark for a token that is a space or nothing."""
    return text.translate(VISIBLE).replace(" ", "\u00a0" if not text.strip() else " ") or "∅"


def copyable(words: Sequence[str]) -> str:
    """A command as it may be pasted, with a line for each flag where it is long."""
    line = ""
    long = sum(len(word) + 1 for word in words) > ONE_LINE
    for word in words:
        shown = word if "{" in word else shlex.quote(word)
        line += f" \\\n  {shown}" if long and word.startswith("--") else f" {shown}"
    return line.lstrip()


def _cards(
    kind: str, original_bytes: int, validation: ValidationRecord, speed: SpeedRecord | None
) -> list[tuple[str, str, str]]:
    """(label, figure, small print) of the figures that belong beside the verdict."""
    share = percent(validation.artifact_bytes / original_bytes) if original_bytes else ""
    beside = [f"{share} of {format_bytes(original_bytes)}"] if share else []
    cards = [("Size", format_bytes(validation.artifact_bytes), ", ".join([*beside, *([kind] if kind else [])]))]
    if validation.texts:
        cards += _text_cards(validation)
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


def _text_cards(validation: ValidationRecord) -> list[tuple[str, str, str]]:
    """Those of the text that suffers most."""
    text = max(validation.texts, key=lambda text: text.kl_mean.value)
    gates = {gate.measure: gate for gate in validation.gates if gate.text == text.name}
    limit = gates["kl_mean"].limit if "kl_mean" in gates else None
    kl, interval = ends(text.kl_mean, limit)
    agreed, around = ends(text.top1_agreement, share=True)
    where = f", on {text.name}" if len(validation.texts) > 1 else ""
    held = "" if limit is None else f", limit {limit:g}"
    _, change = ends(text.perplexity_delta)
    return [
        ("Mean KL", kl, f"nats per token; {interval}{held}{where}"),
        (
            "Perplexity",
            f"{_perplexity(text.perplexity_reference.value)} → {_perplexity(text.perplexity_artifact.value)}",
            f"change {change}{where}",
        ),
        ("Same top token", agreed, f"of predictions; {around}{where}"),
    ]


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else digits(value)


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


def _notes(validation: ValidationRecord) -> list[str]:
    """Those that no section tells already."""
    told = {f"{finding.where}: {finding.says}" for finding in validation.findings}
    return [note for note in validation.notes if note not in told]


def _worst_tensors(tensors: Iterable[TensorRecord]) -> list[TensorRecord]:
    """The matrices with the largest output error, for those who cannot hover."""
    return sorted((one for one in tensors if one.output_error), key=lambda one: -(one.output_error or 0.0))[:WORST]


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
