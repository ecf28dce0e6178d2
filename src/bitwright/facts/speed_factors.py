"""How far engines stay behind datasheets: rows of speed_factors.toml, each with its slow end, middle and fast end.

Not here: what follows for a model (planner/step_time.py), figures measured on this machine (core/machine.py).
"""

from __future__ import annotations

import functools
from typing import Literal

from bitwright.core.documents import Record
from bitwright.facts.rows import read_rows

FILE = "speed_factors.toml"
End = Literal["slow", "expected", "fast"]
ENDS: tuple[End, ...] = ("slow", "expected", "fast")
Where = Literal["server", "others", "llama.cpp", "cpu"]


class Spread(Record, frozen=True, kw_only=True):
    """Three figures, of which `slow` makes an engine slow."""

    slow: float
    expected: float
    fast: float

    def at(self, end: End) -> float:
        """One of the three."""
        return self.expected if end == "expected" else self.slow if end == "slow" else self.fast


class Factor(Spread, frozen=True, kw_only=True):
    """A row about a kind of engine; the head of the file says what each means."""

    where: Where
    what: str
    source: str
    date: str


class KernelFactor(Record, frozen=True, kw_only=True):
    """What a kernel makes of bandwidth and operations."""

    how: str
    bandwidth: Spread
    inflation: Spread
    source: str
    date: str
    engine: str = ""
    kernels: tuple[str, ...] = ()


class GgmlCost(Record, frozen=True, kw_only=True):
    """Nanoseconds of one reference core a weight."""

    type: str
    decode: float
    prefill: float


class Besides(Record, frozen=True, kw_only=True):
    """What the reference core takes beside matrices; the head of the row says in which units."""

    attention: float
    prompt_attention: float
    block: float
    token: float
    source: str
    date: str


class Processor(Record, frozen=True, kw_only=True):
    """A kind of processors beside the reference core."""

    architecture: str
    core: Spread
    bandwidth: Spread
    source: str
    date: str


@functools.cache
def factor(where: Where, what: str) -> Factor:
    """The row of a kind of engine. Each exists."""
    return next(row for row in _factors() if (row.where, row.what) == (where, what))


@functools.cache
def kernel_factor(how: str, engine: str, kernel: str) -> KernelFactor:
    """The first row that matches a kernel of an engine. Every `how` that runs has one."""
    return next(
        row
        for row in _kernels()
        if row.how == how
        and (not row.kernels or kernel.startswith(row.kernels))
        and engine.lower().startswith(row.engine)
    )


@functools.cache
def ggml_costs() -> dict[str, GgmlCost]:
    """By ggml type; the one without a name is for all others."""
    return {row.type: row for row in read_rows(FILE, "ggml", GgmlCost)}


@functools.cache
def besides() -> Besides:
    """Attention and the rest of a block."""
    return read_rows(FILE, "besides", Besides)[0]


@functools.cache
def processor(architecture: str) -> Processor:
    """Of an instruction set, or of any."""
    rows = {row.architecture: row for row in read_rows(FILE, "processor", Processor)}
    return rows.get(architecture, rows[""])


@functools.cache
def _factors() -> tuple[Factor, ...]:
    return read_rows(FILE, "factor", Factor)


@functools.cache
def _kernels() -> tuple[KernelFactor, ...]:
    return read_rows(FILE, "kernel", KernelFactor)
