"""The handbook's choices by use case, from rules.toml.

Not here: applying them (planner/decide.py).
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.core.plan import UseCase
from bitwright.facts.rows import read_rows


class GgufRule(Record, frozen=True, kw_only=True):
    """GGUF types for a use case, the preferred one first."""

    use_case: UseCase
    ladder: tuple[str, ...]
    because: str
    source: str


class IntegerRule(Record, frozen=True, kw_only=True):
    """Bits of compressed-tensors weights for a use case, the preferred ones first."""

    use_case: UseCase
    bits: tuple[int, ...]
    because: str
    source: str


@functools.cache
def gguf_rules() -> dict[str, GgufRule]:
    """By use case."""
    return {row.use_case: row for row in read_rows("rules.toml", "gguf", GgufRule)}


@functools.cache
def integer_rules() -> dict[str, IntegerRule]:
    """By use case."""
    return {row.use_case: row for row in read_rows("rules.toml", "integer", IntegerRule)}
