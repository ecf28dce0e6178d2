"""A measured figure that says how uncertain it is."""

from __future__ import annotations

from bitwright.core.documents import Record


class Estimate(Record, frozen=True, kw_only=True):
    """A figure with its 95 % interval; the error is clustered by window, or by whatever was drawn as one."""

    value: float
    low: float
    high: float
