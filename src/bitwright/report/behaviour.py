"""What a model does, as rows and pictures: long texts of both models.

Not here: tasks, which are one table (template.html.j2), the sections' words (behaviour.html.j2).
"""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from bitwright.core.behaviour import LongOutput
from bitwright.report.charts import Point, Series, chart
from bitwright.report.numbers import share_span, span


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
