"""How far an artifact may behave otherwise than its original, by use case, from behaviour.toml.

Not here: limits of perplexity and KL (thresholds.py), holding estimates against limits (evaluation/).
"""

from __future__ import annotations

import functools

import msgspec

from bitwright.core.documents import Record
from bitwright.core.plan import UseCase
from bitwright.facts.rows import read_rows
from bitwright.facts.thresholds import Thresholds

LIMITS = {  # what a profile may set, and the field that says where the limit comes from
    "task_drop": "task_source",
    "task_flips": "task_source",
    "loop_rate": "long_source",
    "length_inflation": "long_source",
    "invalid_rate": "long_source",
    "engine_kl": "engine_source",
}


class BehaviourLimits(Record, frozen=True, kw_only=True):
    """Limits for one use case; the file says in which units."""

    use_case: UseCase
    task_drop: float
    task_flips: float
    task_source: str
    loop_rate: float
    length_inflation: float
    invalid_rate: float
    long_source: str
    engine_kl: float
    engine_source: str


def behaviour_limits(profile: Thresholds) -> BehaviourLimits:
    """The limits of the profile's use case, under those that the profile sets itself."""
    own = {name: limit for name in LIMITS if (limit := getattr(profile, name)) is not None}
    sources = {LIMITS[name]: profile.source for name in own}
    return msgspec.structs.replace(_table()[profile.use_case], **own, **sources)


@functools.cache
def _table() -> dict[str, BehaviourLimits]:
    return {row.use_case: row for row in read_rows("behaviour.toml", "behaviour", BehaviourLimits)}
