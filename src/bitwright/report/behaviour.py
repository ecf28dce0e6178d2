"""What a model does, as rows and pictures: long texts of both models, and the engine that serves.

Not here: tasks, which are one table (template.html.j2), the sections' words (behaviour.html.j2).
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bitwright.core.behaviour import EngineCheck, LongOutput
from bitwright.core.records import Gate
from bitwright.report.charts import Point, Series, chart
from bitwright.report.numbers import share_span, span
from bitwright.report.rows import Rows, rows_of


def long_rows(one: LongOutput) -> list[tuple[str, str, str, str]]:
    """(what, original, artifact, difference) with intervals."""
    here, there = one.reference, one.artifact
    return [
        ("texts that end in a loop", share_span(here.loop_rate), share_span(there.loop_rate),
         f"{share_span(one.loop_rise)} more"),
        ("texts that end by themselves", share_span(here.end_rate), share_span(there.end_rate),
         f"{share_span(one.end_drop)} fewer"),
        ("texts with invalid characters", share_span(here.invalid_rate), share_span(there.invalid_rate),
         f"{share_span(one.invalid_rise)} more"),
        ("tokens of a text", span(here.tokens), span(there.tokens), f"{span(one.length_inflation)} times as long"),
    ]  # fmt: skip


def agreement(results: Sequence[LongOutput]) -> Markup:
    """The share of equal tokens by position, a line for each way of decoding."""
    series = [
        Series(
            name=one.decoding if len(results) > 1 else "",
            points=tuple(
                Point(
                    x=(bin.start + bin.stop) / 2, y=bin.share.value, low=bin.share.low, high=bin.share.high,
                    tip=f"{one.decoding}, tokens {bin.start} to {bin.stop - 1} of {bin.texts} texts: "
                    f"{share_span(bin.share)}",
                )
                for bin in one.agreement
            ),
        )
        for one in results
    ]  # fmt: skip
    return chart(
        series, title="Share of equal tokens by position", x_label="tokens after the prompt",
        y_label="share of equal tokens",
    )  # fmt: skip


def engine_rows(check: EngineCheck, gates: Sequence[Gate]) -> Rows:
    """What the engine departs by, between what the weights and what a start without context depart by."""
    gate = next((gate for gate in gates if gate.measure == "engine_kl"), None)
    rows = [
        ("the engine from the file as decoded", check.kl_engine, "s0" if gate is None else gate.verdict.lower()),
        ("the same behind prompts of one token", check.kl_first, "s7"),
        ("the file as decoded from the original", check.kl_decoded, "s7"),
        ("the engine from the original", check.kl_served, "s7"),
    ]
    if check.kl_rounding is not None:
        rows.insert(1, ("the file from itself with inputs of 8 bits, the floor", check.kl_rounding, "s7"))
    return rows_of(rows, limit=None if gate is None else gate.limit, unit="mean KL, nats per token")
