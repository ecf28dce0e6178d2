"""Ways to serve a model: what is refused, what is first, and laws of both on random targets."""

from __future__ import annotations

import contextlib
import functools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.errors import EnvironmentFault, UsageError
from bitwright.core.plan import ModelFacts, Plan
from bitwright.facts.catalogue import catalogue_facts, row_of_model
from bitwright.facts.engine_options import problems
from bitwright.facts.hardware import find_device
from bitwright.planner.build import make_plan
from bitwright.planner.quality import quality
from bitwright.planner.wish import Wish

pytestmark = pytest.mark.usefixtures("sizes_once")
DEVICES = ("h100-sxm", "h100-sxm:4", "a100-80-sxm:2", "rtx4090", "rtx3090:2", "t4", "l40s", "b200-sxm", "apple-m2-max")
MODELS = ("llama-3.2-1b", "llama-2-7b", "llama-3.1-8b", "llama-2-13b", "llama-3.1-70b", "mixtral-8x7b", "qwen3-32b")


@functools.cache
def facts_of(name: str) -> ModelFacts:
    row = row_of_model(name)
    assert row is not None
    return catalogue_facts(row)


def planned(model: str, device: str, use_case: str = "chat", **said: object) -> Plan:
    return make_plan(facts_of(model), find_device(device), use_case=use_case, wish=Wish(**said))  # type: ignore[arg-type]


def test_a_named_type_stands_and_is_ranked_alone() -> None:
    plan = make_plan(facts_of("llama-3.1-8b"), find_device("rtx4090"), use_case="chat", type="NVFP4A16", wish=Wish())
    assert plan.type == "NVFP4A16"
    assert plan.ranking is not None
    assert {option.type for option in plan.ranking.options} <= {"NVFP4A16"}


def test_a_wish_without_words_changes_no_decision() -> None:
    for device in DEVICES:
        bare = make_plan(facts_of("llama-3.1-8b"), find_device(device), use_case="chat")
        plan = planned("llama-3.1-8b", device)
        assert (plan.type, plan.format, plan.engine) == (bare.type, bare.format, bare.engine)
        assert plan.ranking is not None
        assert plan.ranking.options


def test_a_seven_billion_model_on_an_a100_for_eight_users() -> None:
    """Worked example 1: 4 bits, because 16 miss 40 tokens per second and user, at some 850 tokens per second."""
    plan = planned("llama-2-7b", "a100-80-sxm", user_speed=110.0, ttft=0.5, concurrency=8)
    assert plan.type == "W4A16 g128 sym"
    assert plan.ranking is not None
    first = plan.ranking.options[0]
    assert first.speed is not None
    assert first.speed.tokens_per_second.low < 850 < first.speed.tokens_per_second.high
    assert any(entry.label.startswith("F16") for entry in plan.ranking.refused)


def test_a_seventy_billion_model_for_a_batch_takes_eight_bits_on_both_devices() -> None:
    """Worked example 2: FP8 over two H100, since 128 requests keep the arithmetic busy and the floor is 0.1."""
    plan = planned("llama-2-70b", "h100-sxm:2", workload="batch", concurrency=128, floor=0.1)
    assert plan.type == "FP8_DYNAMIC"
    assert "--tensor-parallel-size" in plan.launch
    assert plan.ranking is not None
    assert any(entry.label.startswith("W4A16") for entry in plan.ranking.refused)


def test_latency_and_cost_may_choose_another_way() -> None:
    cheap = planned("llama-3.1-70b", "h100-sxm:4", concurrency=64, user_speed=25.0, aim="cost")
    assert cheap.ranking is not None
    prices = [option.cost.dollars_per_million_tokens.expected for option in cheap.ranking.options if option.cost]
    assert prices == sorted(prices)
    quick = planned("llama-3.1-8b", "apple-m2-max", aim="latency")
    assert quick.ranking is not None
    assert quick.target is not None
    times = [
        option.speed.ttft_seconds.expected
        + quick.target.workload.output_tokens / option.speed.user_tokens_per_second.expected
        for option in quick.ranking.options
        if option.speed and option.quality.perplexity_delta.expected <= 0.3
    ]
    assert times == sorted(times)


def test_what_nothing_meets_says_what_was_missed() -> None:
    with pytest.raises(EnvironmentFault, match=r"no way to serve .* tokens/s for each request"):
        planned("llama-3.1-70b", "rtx3090:2", user_speed=500.0)


def test_the_launch_line_takes_as_many_devices_as_its_row() -> None:
    small, large = (planned(name, "h100-sxm:4") for name in ("llama-3.1-8b", "llama-3.1-70b"))
    assert small.ranking is not None
    assert small.ranking.options[0].devices == 1
    assert "--tensor-parallel-size" not in small.launch
    assert large.launch[large.launch.index("--tensor-parallel-size") + 1] == "2"


def test_an_unknown_engine_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="unknown engine `vlm`"):
        planned("llama-3.1-8b", "rtx4090", engine=("vlm",))


def test_an_engine_that_was_asked_for_is_the_only_one() -> None:
    plan = planned("llama-3.1-8b", "rtx4090", engine=("llama.cpp",))
    assert plan.format == "gguf"
    assert plan.ranking is not None
    assert {option.engine for option in plan.ranking.options} == {"llama.cpp"}


def test_small_models_are_expected_to_lose_more() -> None:
    small, large = (quality(facts_of(name), "Q4_K_M") for name in ("llama-3.2-1b", "llama-3.1-70b"))
    assert small is not None
    assert large is not None
    assert small.kl_mean.expected > large.kl_mean.expected
    assert quality(facts_of("llama-2-7b"), "a type that nobody knows") is None


wishes = st.fixed_dictionaries(
    {},
    optional={
        "concurrency": st.sampled_from([1, 4, 32, 256]),
        "workload": st.sampled_from(["chat", "code", "rag", "batch", "agent"]),
        "user_speed": st.sampled_from([5.0, 20.0, 60.0]),
        "floor": st.sampled_from([0.05, 0.2, 1.0]),
        "aim": st.sampled_from(["balanced", "cost", "latency"]),
        "prompt_tokens": st.sampled_from([64, 30000]),
    },
)
targets = {"model": st.sampled_from(MODELS), "device": st.sampled_from(DEVICES), "said": wishes}
COUNTS = [25, pytest.param(200, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", COUNTS)
def test_what_is_offered_can_be(count: int) -> None:
    """Never more memory than there is, never a type that no kernel runs, never below a floor that was asked for, never
    a flag that an engine does not take."""

    @settings(max_examples=count)
    @given(**targets)
    def holds(model: str, device: str, said: dict[str, object]) -> None:
        with contextlib.suppress(EnvironmentFault):
            check_offers(planned(model, device, **said), floor="floor" in said)

    holds()


def check_offers(plan: Plan, *, floor: bool) -> None:
    assert plan.ranking is not None
    assert plan.target is not None
    limits, least = plan.target.limits, plan.target.floor
    for option in plan.ranking.options:
        assert option.memory.total.high <= option.memory.available
        assert option.handling in ("computes", "widens", "emulates", "expands")
        assert option.devices <= plan.device.count
        assert plan.model.heads % option.tensor_parallel == 0
        if option.engine in ("vllm", "sglang"):
            assert problems(option.engine, option.launch[2:]) == []
        if floor:
            assert option.quality.perplexity_delta.expected <= least.perplexity_delta
        if limits.user_tokens_per_second is not None and option.speed is not None:
            assert option.speed.user_tokens_per_second.expected >= limits.user_tokens_per_second


@pytest.mark.parametrize("count", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_more_never_makes_a_wish_impossible(count: int) -> None:
    """More devices, or more memory on each."""

    @settings(max_examples=count)
    @given(**targets)
    def holds(model: str, device: str, said: dict[str, object]) -> None:
        try:
            planned(model, device, **said)
        except EnvironmentFault:
            return
        here = find_device(device)
        more = [{"count": 2 * here.count}, {"count": here.count + 1}, {"memory_bytes": 2 * here.memory_bytes}]
        for change in more if here.kind == "gpu" else more[2:]:
            larger = msgspec.structs.replace(here, **change)
            wish = Wish(**said)  # type: ignore[arg-type]
            assert make_plan(facts_of(model), larger, use_case="chat", wish=wish).ranking is not None

    holds()


@pytest.mark.parametrize("count", [8, pytest.param(60, marks=pytest.mark.slow)])
def test_a_stricter_floor_never_loses_more(count: int) -> None:
    @settings(max_examples=count)
    @given(model=targets["model"], device=targets["device"])
    def holds(model: str, device: str) -> None:
        losses = []
        for floor in (1.0, 0.2, 0.05):
            try:
                plan = planned(model, device, floor=floor)
            except EnvironmentFault:
                break
            assert plan.ranking is not None
            losses.append(plan.ranking.options[0].quality.perplexity_delta.expected)
        assert losses == sorted(losses, reverse=True)

    holds()
