"""Validation thresholds by use case, from thresholds.toml.

Not here: holding estimates against them (evaluation/).
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.plan import USE_CASES, UseCase
from bitwright.facts.rows import read_rows


class Thresholds(Record, frozen=True, kw_only=True):
    """Limits for one use case: perplexity points, and nats per token."""

    use_case: UseCase
    perplexity_delta: float
    kl_mean: float
    source: str


def thresholds(use_case: str) -> Thresholds:
    """The limits for `use_case`. Raises `UsageError` on an unknown one."""
    if use_case not in _table():
        raise UsageError(f"unknown use case `{use_case}`", hint=did_you_mean(use_case, [*USE_CASES]))
    return _table()[use_case]


@functools.cache
def _table() -> dict[str, Thresholds]:
    return {row.use_case: row for row in read_rows("thresholds.toml", "threshold", Thresholds)}
