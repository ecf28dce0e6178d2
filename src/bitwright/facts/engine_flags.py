"""What flags of serving engines are for, which are gone, where metrics are and what they are called.

Not here: what the parsers take (engine_options.py).
"""

from __future__ import annotations

import functools
from typing import Literal

from bitwright.core.documents import Record
from bitwright.facts.rows import read_rows


class EngineFlag(Record, frozen=True, kw_only=True):
    """A row of engine_flags.toml; its head says what each field means."""

    engine: str
    name: str
    purpose: str
    source: str
    date: str
    kind: Literal["flag", "env", "yaml"] = "flag"
    values: str = ""
    default: str = ""
    means: str = ""
    since: str = ""
    deprecated: str = ""
    removed: str = ""
    instead: str = ""


class Endpoint(Record, frozen=True, kw_only=True):
    """Where an engine is asked how it is; engine_metrics.toml."""

    engine: str
    port: int
    health: str
    metrics: str
    source: str
    date: str
    needs: str = ""
    note: str = ""


class Metric(Record, frozen=True, kw_only=True):
    """A Prometheus metric, and what it was called before; engine_metrics.toml."""

    engine: str
    name: str
    kind: Literal["gauge", "counter", "histogram"]
    measures: str
    source: str
    date: str
    was: tuple[str, ...] = ()


@functools.cache
def engine_flags() -> tuple[EngineFlag, ...]:
    """All rows, in the file's order."""
    return read_rows("engine_flags.toml", "flag", EngineFlag)


@functools.cache
def endpoints() -> dict[str, Endpoint]:
    """By engine."""
    return {row.engine: row for row in read_rows("engine_metrics.toml", "endpoint", Endpoint)}


@functools.cache
def metrics() -> tuple[Metric, ...]:
    """All rows, in the file's order."""
    return read_rows("engine_metrics.toml", "metric", Metric)


def find_flag(engine: str, name: str) -> EngineFlag | None:
    """The row of a flag or environment variable by this very name."""
    return next((row for row in engine_flags() if (row.engine, row.name) == (engine, name)), None)


def flag_for(engine: str, purpose: str) -> EngineFlag | None:
    """The flag that an engine has for a purpose today."""
    rows = (row for row in engine_flags() if (row.engine, row.purpose) == (engine, purpose))
    return next((row for row in rows if not row.removed), None)


@functools.cache
def renamed_metrics() -> dict[str, Metric]:
    """What a metric that is gone is called now, by its former name."""
    return {old: row for row in metrics() for old in row.was}
