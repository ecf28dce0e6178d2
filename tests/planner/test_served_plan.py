"""How an artifact is served follows its row of the ranking: devices, cache, context, requests, memory."""

from __future__ import annotations

import pytest

from bitwright import api
from bitwright.core.plan import Plan
from bitwright.planner.wish import Wish


def planned(model: str, target: str, type: str | None = None, **said: object) -> Plan:
    return api.plan(model, target=target, type=type, wish=Wish(**said))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "target", "type", "said"),
    [
        ("llama-3.1-70b", "h100-sxm:4", None, {"concurrency": 64}),
        ("llama-3.1-70b", "h100-sxm:4", None, {"concurrency": 64, "engine": ("sglang",)}),
        ("llama-3.1-70b", "h100-sxm:4", "W4A16", {"concurrency": 16}),
        ("llama-3.1-8b", "rtx4090:2", "FP8_DYNAMIC", {"concurrency": 8, "kv_cache": "fp8"}),
        ("llama-3.1-8b", "cpu-avx2", "Q8_0", {"concurrency": 4, "kv_cache": "q8_0"}),
    ],
)
def test_what_was_asked_is_served_as_its_row_says(
    model: str, target: str, type: str | None, said: dict[str, object]
) -> None:
    plan = planned(model, target, type, **said)
    way = plan.way
    assert way is not None
    assert plan.launch == way.launch
    assert plan.engine == way.engine
    each = way.devices // way.replicas
    assert plan.memory.available == each * way.memory.available
    assert plan.memory.weights == each * way.memory.weights
    assert plan.memory.kv_cache == each * way.memory.kv_cache
    assert plan.memory.total == pytest.approx(each * way.memory.total.high, abs=each)
    assert str(said["concurrency"]) in plan.launch


def test_where_nothing_was_asked_memory_is_that_of_the_devices_that_are_used() -> None:
    plan = planned("llama-3.1-8b", "h100-sxm:4")
    assert plan.way is not None
    assert plan.way.devices == 1
    alone = planned("llama-3.1-8b", "h100-sxm")
    assert plan.memory == alone.memory
    assert "--tensor-parallel-size" not in plan.launch


def test_a_named_type_that_misses_what_was_asked_is_planned_with_a_warning() -> None:
    plan = planned("llama-3.1-8b", "rtx4090", "W8A16", ttft=0.001)
    assert plan.way is None
    assert any("would not be offered: first token after" in warning for warning in plan.warnings)


def test_a_cache_is_asked_for_once() -> None:
    plan = api.plan("llama-3.1-8b", target="h100-sxm", kv_cache="fp8", wish=Wish(kv_cache="fp8", concurrency=4))
    assert plan.launch.count("--kv-cache-dtype") == 1
    assert plan.way is not None
    assert plan.memory.kv_cache == plan.way.memory.kv_cache
