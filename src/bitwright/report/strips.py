"""Small intervals in the rows of a table, all on one axis, so that eyes can compare what the rows write out.

The axis is logarithmic where values differ by more than thirty times; a value of zero then stands at its left end.
Not here: charts with two axes (charts.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from bitwright.report.charts import Scale, number

WIDTH, HEIGHT, MARGIN = 340, 26, 8
FAR_APART = 30.0


class Strips:
    """The axis of all rows, and its cells."""

    def __init__(self, values: Sequence[float], *, limit: float | None = None) -> None:
        """`values`: every end and every estimate that will be drawn."""
        held = [value for value in [*values, *([] if limit is None else [limit])] if math.isfinite(value)]
        positive = [value for value in held if value > 0]
        top = max(positive, default=1.0)
        self._log = bool(positive) and top / min(positive) > FAR_APART
        low = min(positive) / 1.5 if self._log else min(0.0, *held, 0.0)
        high = top * 1.5 if self._log else low + (top - low) * 1.06
        self._x = Scale(low, high, MARGIN, WIDTH - MARGIN, self._log)
        self._limit = limit

    def strip(self, value: float, low: float, high: float, *, kind: str = "s0", said: str = "") -> Markup:
        """One estimate with its interval; without one where `low` equals `high`."""
        middle = HEIGHT // 2
        return Markup(
            '<svg class="strip" viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><title>{2}</title>'
            '<line class="grid" x1="{3}" x2="{4}" y1="{5}" y2="{5}"/>{6}'
            '<line class="range {7}" x1="{8}" x2="{9}" y1="{5}" y2="{5}"/>'
            '<circle class="mark {7}" cx="{10}" cy="{5}" r="5"/></svg>'
        ).format(
            WIDTH, HEIGHT, said, MARGIN, WIDTH - MARGIN, middle, self._limit_line(HEIGHT), kind, self._x(low),
            self._x(high), self._x(value),
        )  # fmt: skip

    def axis(self, unit: str) -> Markup:
        """Ticks, for a row below all others."""
        parts = [
            Markup('<text class="tick" x="{}" y="12" text-anchor="middle">{}</text>').format(
                min(max(self._x(tick), 16), WIDTH - 16), number(tick)
            )
            for tick in self._ticks()
        ]
        name = Markup('<text class="tick" x="{}" y="28" text-anchor="middle">{}{}</text>').format(
            WIDTH / 2, unit, ", logarithmic" if self._log else ""
        )
        return Markup('<svg class="strip" viewBox="0 0 {} 32" aria-hidden="true">{}{}</svg>').format(
            WIDTH, Markup("").join(parts), name
        )

    def _ticks(self) -> list[float]:
        found = self._x.ticks()
        step = max(1, math.ceil(len(found) / 5))
        return found[::step]

    def _limit_line(self, height: int) -> Markup:
        if self._limit is None:
            return Markup("")
        return Markup('<line class="limit" x1="{0}" x2="{0}" y1="0" y2="{1}"/>').format(self._x(self._limit), height)
