"""Rows of figures with a small interval each: what a KL is next to, and where it falls among sure and unsure tokens.

Not here: the intervals as drawn (strips.py), charts with two axes (figures.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from markupsafe import Markup

from bitwright.core.records import Estimate, Gate, TextResult, ValidationRecord
from bitwright.report.numbers import percent, share_span
from bitwright.report.strips import Strips


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of a table: words, the estimate, more figures, and its picture."""

    words: str
    estimate: Estimate
    strip: Markup
    more: tuple[tuple[str, str], ...] = ()  # what, figure


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Lines on one axis."""

    lines: tuple[Row, ...]
    axis: Markup


def kl_ladder(validation: ValidationRecord) -> Rows | None:
    """Each text's mean KL beside what arithmetic alone does to the original, and the limit; None without floors."""
    floors = validation.floors
    if floors is None or not validation.texts:
        return None
    gates = {gate.text: gate for gate in validation.gates if gate.measure == "kl_mean"}
    rows = [(f"this artifact on {text.name}", text.kl_mean, _kind(gates.get(text.name))) for text in validation.texts]
    rows += [
        ("the original in bfloat16, as engines serve it", _exactly(floors.bfloat16_kl), "s7"),
        ("rounding of this measurement itself", _exactly(floors.order_kl), "s7"),
    ]
    return rows_of(rows, limit=next((gate.limit for gate in gates.values()), None), unit="mean KL, nats per token")


def kl_by_confidence(text: TextResult) -> Rows | None:
    """KL where the original was sure of its next token and where it was not; None where it was not measured."""
    bins = [bin for bin in text.by_confidence if bin.kl is not None and bin.tokens]
    if not bins:
        return None
    whole = sum(bin.tokens for bin in text.by_confidence)
    found = rows_of(
        [(f"{100 * bin.low:.0f} to {100 * bin.high:.0f} %", bin.kl, "s0") for bin in bins if bin.kl is not None],
        limit=None,
        unit="mean KL, nats per token",
    )
    lines = [
        dataclasses.replace(
            line,
            more=(("share of tokens", percent(bin.tokens / whole)), ("same top token", _share(bin.top1_agreement))),
        )
        for line, bin in zip(found.lines, bins, strict=True)
    ]
    return dataclasses.replace(found, lines=tuple(lines))


def rows_of(held: Sequence[tuple[str, Estimate, str]], *, limit: float | None, unit: str) -> Rows:
    ends = [end for _, estimate, _ in held for end in (estimate.value, estimate.low, estimate.high)]
    strips = Strips(ends, limit=limit)
    lines = [
        Row(
            words=words,
            estimate=estimate,
            strip=strips.strip(
                estimate.value, estimate.low, estimate.high, kind=kind, said=f"{words}: {estimate.value:.3g}"
            ),
        )
        for words, estimate, kind in held
    ]
    return Rows(lines=tuple(lines), axis=strips.axis(unit))


def _kind(gate: Gate | None) -> str:
    return "s0" if gate is None else gate.verdict.lower()


def _exactly(value: float) -> Estimate:
    return Estimate(value=value, low=value, high=value)


def _share(estimate: Estimate | None) -> str:
    return "–" if estimate is None else share_span(estimate)
