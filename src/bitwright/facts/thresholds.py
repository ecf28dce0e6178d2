"""Validation thresholds by use case, from thresholds.toml, and profiles: a use case with limits of a user's own.

    name: support desk
    use_case: chat           # whose limits stand where the file says nothing
    kl_mean: 0.05
    top1_flips: 0.12
    perplexity_delta: .inf   # no limit

Not here: holding estimates against them (evaluation/).
"""

from __future__ import annotations

import functools
import math
from pathlib import Path

import msgspec

from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.plan import USE_CASES, UseCase
from bitwright.facts.key_file import read_keys
from bitwright.facts.rows import read_rows

OWN = ("use_case", "source", "name", "flips_source")  # fields that are no limits


class Thresholds(Record, frozen=True, kw_only=True):
    """Most that each measure may be; `None` and infinity are no limits. thresholds.toml says in which units."""

    use_case: UseCase
    source: str
    kl_mean: float
    perplexity_delta: float
    top1_flips: float | None = None
    perplexity_ratio: float | None = None
    kl_p99: float | None = None
    rms_probability_change: float | None = None
    task_drop: float | None = None
    task_flips: float | None = None
    loop_rate: float | None = None
    length_inflation: float | None = None
    invalid_rate: float | None = None
    engine_kl: float | None = None
    name: str = ""  # of a profile
    flips_source: str = ""  # where that limit has another source


def thresholds(use_case: str) -> Thresholds:
    """The limits for `use_case`. Raises `UsageError` on an unknown one."""
    if use_case not in _table():
        raise UsageError(f"unknown use case `{use_case}`", hint=did_you_mean(use_case, [*USE_CASES]))
    return _table()[use_case]


def limits(profile: Thresholds) -> dict[str, float]:
    """The measures that have a limit, in the order of the fields."""
    found = {name: getattr(profile, name) for name in Thresholds.__struct_fields__ if name not in OWN}
    return {name: limit for name, limit in found.items() if limit is not None and limit < math.inf}


def source_of(profile: Thresholds, measure: str) -> str:
    """Where the limit comes from."""
    return (profile.flips_source if measure == "top1_flips" else "") or profile.source


def read_profile(path: Path, use_case: str) -> Thresholds:
    """The limits of a YAML file over those of the use case that it names, else of `use_case`.

    Raises `InputError` for a broken file, `UsageError` for an unknown key, a value that is no limit, or no limit at
    all.
    """
    known = [name for name in Thresholds.__struct_fields__ if name != "flips_source"]
    found = read_keys(path, known, example="kl_mean: 0.05")
    base = msgspec.to_builtins(thresholds(str(found.get("use_case", use_case))))
    own = {"name": path.stem, "source": f"profile {path.name} over {base['use_case']}", "flips_source": ""}
    try:
        profile = msgspec.convert(base | own | found, Thresholds)
    except msgspec.ValidationError as error:
        raise UsageError(f"`{path}`: {error}", hint="write limits as numbers: kl_mean: 0.05") from error
    for name in found.keys() - OWN:
        limit = getattr(profile, name)
        if limit is not None and not limit >= 0:
            raise UsageError(f"`{path}`: {name} {limit} is no limit", hint="give a number from 0 on, or .inf for none")
    if not limits(profile):
        raise UsageError(f"`{path}` leaves no limit", hint="give at least one: kl_mean: 0.05")
    return profile


@functools.cache
def _table() -> dict[str, Thresholds]:
    return {row.use_case: row for row in read_rows("thresholds.toml", "threshold", Thresholds)}
