"""Rows on flags and metrics: sourced, and in agreement with what the engines' own parsers take."""

from __future__ import annotations

import pytest

from bitwright.facts.engine_flags import (
    EngineFlag,
    endpoints,
    engine_flags,
    find_flag,
    flag_for,
    metrics,
    renamed_metrics,
)
from bitwright.facts.engine_options import FILES, engine_options

FLAGS = [row for row in engine_flags() if row.kind == "flag" and row.purpose != "command"]
PURPOSES = ("tensor-parallel", "context", "concurrency", "kv-cache", "memory-fraction", "host", "port")


def test_rows_are_whole() -> None:
    names = [(row.engine, row.name) for row in engine_flags()]
    assert len(names) == len(set(names)) > 130
    assert all(len(row.source) > 10 and row.date for row in (*engine_flags(), *endpoints().values(), *metrics()))
    assert all(row.instead for row in engine_flags() if row.removed or row.deprecated)


@pytest.mark.parametrize("row", [row for row in FLAGS if row.engine in FILES], ids=lambda row: row.engine + row.name)
def test_a_flag_is_there_or_gone(row: EngineFlag) -> None:
    options = {name: option for option in engine_options(row.engine).options for name in option.names}
    assert (row.name in options) != bool(row.removed)
    if row.default and not row.removed and options[row.name].default is not None:
        assert row.default == options[row.name].default


@pytest.mark.parametrize("engine", FILES)
def test_what_every_engine_can_be_told(engine: str) -> None:
    missing = [purpose for purpose in PURPOSES if flag_for(engine, purpose) is None]
    assert missing == []
    assert endpoints()[engine].health


def test_meanings_of_the_memory_fraction_differ() -> None:
    means = {engine: getattr(flag_for(engine, "memory-fraction"), "means", "") for engine in FILES}
    assert "total memory, for weights, cache and everything" in means["vllm"]
    assert "for weights and cache together" in means["sglang"]
    assert means["tensorrt-llm"].startswith("of what is free")
    assert means["lmdeploy"].startswith("of what is free")


def test_former_names_lead_to_today_s() -> None:
    today = {row.name for row in metrics()}
    assert not today & renamed_metrics().keys()
    assert renamed_metrics()["vllm:gpu_cache_usage_perc"].name == "vllm:kv_cache_usage_perc"
    row = find_flag("vllm", "--swap-space")
    assert row is not None
    assert row.removed == "0.18"


@pytest.mark.parametrize("engine", FILES)
def test_what_is_recommended_instead_exists(engine: str) -> None:
    known = {name for option in engine_options(engine).options for name in option.names}
    rows = [row for row in engine_flags() if row.engine == engine]
    named = {word.rstrip(",") for row in rows for word in row.instead.split() if word.startswith("--")}
    assert named - {"--kv-cache"} <= known  # `bitwright quantize --kv-cache` is ours
