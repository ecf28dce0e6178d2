"""What rounding is expected to cost by type and size of the model, from quality_priors.toml.

Not here: what was measured on a model (evaluation/), limits (thresholds.py).
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.facts.rows import read_rows

FILE = "quality_priors.toml"


class Prior(Record, frozen=True, kw_only=True):
    """A type in a model of 8 thousand million parameters; the head of the file says what each field means."""

    labels: tuple[str, ...]
    perplexity: float
    kl: float
    ours: str
    source: str
    date: str


class Share(Record, frozen=True, kw_only=True):
    """What this tool makes of a prior."""

    name: str
    expected: float
    low: float
    high: float
    source: str


class Size(Record, frozen=True, kw_only=True):
    """What models of a size lose, beside the prior's."""

    billions: float
    factor: float
    source: str


def prior_of(label: str) -> Prior | None:
    """The row of a type's label, `None` for a type that the table does not hold."""
    kind = label.partition(" ")[0].removesuffix("-mix")
    return next((row for row in _priors() if label in row.labels or kind in row.labels), None)


def share_of(name: str) -> Share:
    """A row by its name."""
    return next(row for row in _shares() if row.name == name)


def size_of(parameters: int) -> Size:
    """The row that holds a model of so many parameters."""
    return next(row for row in _sizes() if parameters <= row.billions * 1e9)


@functools.cache
def _priors() -> tuple[Prior, ...]:
    return read_rows(FILE, "prior", Prior)


@functools.cache
def _sizes() -> tuple[Size, ...]:
    return read_rows(FILE, "size", Size)


@functools.cache
def _shares() -> tuple[Share, ...]:
    return read_rows(FILE, "share", Share)
