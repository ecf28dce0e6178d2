"""What engines hold beside weights, cache and activations: the rows of engine_memory.toml.

Not here: what follows for a deployment (planner/engine_memory.py).
"""

from __future__ import annotations

import functools
from typing import Literal

from bitwright.core.documents import Record
from bitwright.core.intervals import Interval
from bitwright.core.units import MIB
from bitwright.facts.rows import read_rows

FILE = "engine_memory.toml"
What = Literal["process", "vocabulary", "packing", "packing int8"]
UNITS = {"MiB": MIB, "bytes": 1}


class MemoryRow(Record, frozen=True, kw_only=True):
    """A row; the head of the file says what each field means."""

    engines: tuple[str, ...]
    device: Literal["cpu", "gpu"]
    what: What
    unit: Literal["MiB", "bytes"]
    low: float
    expected: float
    high: float
    source: str
    date: str

    @property
    def bytes(self) -> Interval:
        unit = UNITS[self.unit]
        return Interval(expected=self.expected * unit, low=self.low * unit, high=self.high * unit, rests_on=self.source)


@functools.cache
def memory_rows() -> tuple[MemoryRow, ...]:
    """All rows."""
    return read_rows(FILE, "memory", MemoryRow)


def engine_bytes(engine: str, device: str, what: What) -> Interval | None:
    """The first row of an engine on a kind of device; `None` where there is none."""
    rows = (row for row in memory_rows() if engine in row.engines and row.device == device and row.what == what)
    return next((row.bytes for row in rows), None)
