"""The handbooks' settings row by row: cache types, prefixes, speculation, parallelism, precision of parts, flags."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bitwright.core.ranking import Option
from bitwright.core.schemes import FloatScheme
from bitwright.facts.engine_options import problems
from bitwright.facts.hardware import find_device
from bitwright.planner.build import make_plan
from bitwright.planner.rules import draft_for
from handbook import Row, chosen, corrected, facts_of, plan_of

pytestmark = pytest.mark.usefixtures("sizes_once")


def way(model: str, target: str, use_case: str = "chat", **said: Any) -> Option:
    """The way that is chosen."""
    return chosen(plan_of(Row(at="", model=model, target=target, use_case=use_case, said=said)))


def because(option: Option, choice: str) -> str:
    """What a reason says, empty where there is none."""
    return next((reason.because for reason in option.reasons if reason.choice.startswith(choice)), "")


def speculates(option: Option) -> bool:
    return bool(because(option, "speculative decoding"))


# --- keys and values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "target", "said", "cache"),
    [
        pytest.param("llama-3.1-8b", "h100-sxm", {"prompt_tokens": 30000}, "fp8", id="production guide, long on H100"),
        pytest.param("llama-3.1-70b", "h200-sxm:2", {"prompt_tokens": 60000}, "fp8", id="production guide, long 70B"),
        pytest.param("llama-3.1-8b", "a100-80-sxm", {"prompt_tokens": 30000}, "16-bit", id="guide, long on an A100"),
        pytest.param("qwen2.5-7b", "h100-sxm", {"prompt_tokens": 30000}, "16-bit", id="vLLM PR 11906, Qwen 2.5"),
        pytest.param("llama-3.1-8b", "l4", {"concurrency": 128}, "fp8", id="guide §11, no memory left"),
    ],
)
def test_cache_types(model: str, target: str, said: dict[str, Any], cache: str) -> None:
    option = way(model, target, **said)
    assert option.kv_cache == cache
    words = option.launch
    assert (words[words.index("--kv-cache-dtype") + 1] if "--kv-cache-dtype" in words else "16-bit") == cache


def test_eight_bit_caches_are_not_free() -> None:
    """Guide §13, production guide's quick start: always. Ours: not for short contexts that fit."""
    for target in ("h100-sxm:4", "a100-80-sxm:4"):
        corrected("cache-not-free", same=way("llama-3.1-70b", target).kv_cache != "16-bit")


def test_accuracy_keeps_the_cache_before_devices() -> None:
    """Model quantization article, errors in long sequences: keys and values stay; with medical text as well."""
    said = {"prompt_tokens": 8000, "concurrency": 64}
    assert way("llama-3.1-8b", "a100-80-sxm:4", **said).kv_cache == "fp8"
    assert way("llama-3.1-8b", "a100-80-sxm:4", use_case="medical-legal", **said).kv_cache == "16-bit"


def test_int8_is_no_cache_of_vllm() -> None:
    """Guide §10 and §13."""
    corrected("int8-cache", same=problems("vllm", ["--kv-cache-dtype", "int8"]) == [])


# --- prefixes, chunks, memory fraction ----------------------------------------------------------------------------


@pytest.mark.parametrize("load", ["chat", "rag", "agent", "code"])
def test_prefix_caching_where_prompts_begin_alike(load: str) -> None:
    """Guide §10, §13 and §15 (RAG: prefix cache on); production guide, checklist."""
    option = way("llama-2-7b" if load == "chat" else "llama-3.1-8b", "a100-80-sxm", workload=load)
    assert "at the start of each prompt" in because(option, "prefix caching")
    corrected("prefix-caching-flag", same="--enable-prefix-caching" in option.launch)


def test_nothing_is_cached_where_nothing_is_shared() -> None:
    assert not because(way("llama-3.1-8b", "a100-80-sxm", workload="batch", concurrency=64), "prefix caching")


def test_the_memory_fraction_is_vllms_own() -> None:
    """Guide §12 and §14; production guide, memory planning."""
    corrected("memory-fraction", same="--gpu-memory-utilization" in way("llama-3.1-70b", "h100-sxm:4").launch)


@pytest.mark.parametrize(
    "flag",
    [
        "speculative-model",
        "ngram-prompt-lookup-max",
        "speculative-draft-tensor-parallel-size",
        "scheduler-delay-factor",
    ],
)
def test_flags_that_are_gone(flag: str) -> None:
    """Production guide, speculative decoding and continuous batching."""
    corrected("removed-flags", same=problems("vllm", [f"--{flag}", "1"]) == [])


# --- speculation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "target", "said", "advised"),
    [
        pytest.param("llama-3.1-70b", "h100-sxm:2", {"concurrency": 1, "aim": "latency"}, True, id="latency-sensitive"),
        pytest.param("llama-3.1-70b", "a100-80-sxm:4", {"concurrency": 2, "user_speed": 15.0}, True, id="single users"),
        pytest.param("llama-3.1-70b", "h100-sxm:2", {"concurrency": 64, "aim": "latency"}, False, id="throughput"),
        pytest.param("llama-3.1-70b", "h100-sxm:2", {"concurrency": 1}, False, id="no word of latency"),
        pytest.param("mistral-7b", "rtx4090", {"concurrency": 1, "aim": "latency"}, False, id="no draft"),
        pytest.param(
            "mistral-7b", "rtx4090", {"concurrency": 1, "aim": "latency", "workload": "rag"}, True, id="n-grams"
        ),
    ],
)
def test_speculation(model: str, target: str, said: dict[str, Any], advised: bool) -> None:
    """Production guide, speculative decoding, when to use and when to skip; the words are those of the engine."""
    option = way(model, target, **said)
    assert speculates(option) == advised
    if advised:
        words = because(option, "speculative decoding").partition("add ")[2]
        flag, value = words.split(" ", 1)
        assert problems("vllm", [*option.launch[2:], flag, value.strip("'")]) == []


def test_the_draft_is_the_smallest_of_the_family() -> None:
    """Production guide: 7 to 8B for 70B, with the same tokenizer."""
    draft = draft_for(facts_of("llama-3.1-70b"))
    assert draft is not None
    assert draft.vocab == facts_of("llama-3.1-70b").vocab
    corrected("draft-size", same=3 <= draft.billions <= 8)
    assert draft_for(facts_of("llama-3.1-8b")) is None, "a draft that is not much smaller drafts nothing quickly"


# --- parallelism --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "target", "said", "layout"),
    [
        pytest.param("llama-3.1-405b", "h100-sxm:8", {}, (8, 1), id="framework matrix, 405B over 8"),
        pytest.param("llama-2-70b", "h100-sxm:2", {"concurrency": 64}, (2, 1), id="framework example 2, two devices"),
        pytest.param("qwen2.5-72b", "rtx3090:3", {}, (1, 3), id="production guide, stages on slow links"),
        pytest.param("deepseek-v3", "h100-sxm:16", {}, (8, 2), id="production guide, stages across machines"),
    ],
)
def test_layouts(model: str, target: str, said: dict[str, Any], layout: tuple[int, int]) -> None:
    """Tensor parallelism within a machine; stages where heads cannot be shared out, and across machines."""
    option = way(model, target, **said)
    assert (option.tensor_parallel, option.pipeline_parallel) == layout
    assert problems("vllm", option.launch[2:]) == []
    assert ("--pipeline-parallel-size" in option.launch) == (layout[1] > 1)
    assert bool(because(option, f"{layout[1]} pipeline stages")) == (layout[1] > 1)


@pytest.mark.parametrize(("target", "ways"), [("h100-sxm:8", 8), ("h100-sxm:4", 4)])
def test_a_replica_takes_as_few_devices_as_do_it(target: str, ways: int) -> None:
    """Guide §12 (8 H100), production guide's quick start (4): 70B in FP8 over all."""
    corrected("fewest-devices", same=way("llama-3.1-70b", target).tensor_parallel == ways)


def test_large_models_over_slow_links_are_told_so() -> None:
    """Guide §13: 70B on two RTX 3090 waits for PCIe, on two A100 it does not; so do our figures."""
    slow, fast = (way("llama-2-70b", target, concurrency=8) for target in ("rtx3090:2", "a100-40-sxm:2"))
    assert because(slow, "slow links")
    assert not because(fast, "slow links")
    assert slow.speed is not None
    assert fast.speed is not None
    assert fast.speed.tokens_per_second.expected > 2 * slow.speed.tokens_per_second.expected


# --- types of floats, parts of models, methods --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "half"), [("a100-80-sxm", False), ("h100-sxm", False), ("rtx3090", False), ("t4", True)]
)
def test_bfloat16_from_ampere_on(target: str, half: bool) -> None:
    """Guide §02: BF16 on Ampere and later, FP16 on Volta and Turing."""
    assert ("half" in way("llama-3.1-8b", target).launch) == half


def test_the_parts_of_a_vision_language_model() -> None:
    """Guide §08, recommended strategy: the tower in FP16, the decoder in 4 bits, 60 % of the memory saved."""
    plan = make_plan(facts_of("qwen2.5-vl-7b"), find_device("a100-80-sxm"), use_case="vlm")
    vision = plan.model.vision
    assert vision is not None
    schemes = {entry.name: entry.scheme for entry in plan.tensors}
    assert all(isinstance(schemes[tensor.name], FloatScheme) for tensor in vision.tower)
    kept = all(isinstance(schemes[tensor.name], FloatScheme) for tensor in vision.projector)
    corrected("projector-kept", same=not kept)
    assert 1 - plan.file_bytes / plan.model.bytes == pytest.approx(0.6, abs=0.06)


def test_the_method_is_gptq() -> None:
    """Guide §13: AWQ for new deployments."""
    plan = make_plan(facts_of("llama-3.1-8b"), find_device("a100-80-sxm"), use_case="chat")
    corrected("gptq-first", same=plan.method == "awq" or plan.format == "awq")
    assert plan.scales_columns, "AWQ's scaling is in it"
    assert "g128" in plan.type


def test_ten_times_cheaper() -> None:
    """Guide §13: FP16 on an A100 costs ten times what AWQ on two RTX 4090 does."""
    said = {"concurrency": 8}
    half = plan_of(Row(at="", model="llama-2-13b", target="a100-80-sxm", said=said)).ranking
    assert half is not None
    sixteen = next(option for option in half.options if option.type == "F16")
    four = way("llama-2-13b", "rtx4090:2", **said)
    assert sixteen.cost is not None
    assert four.cost is not None
    ratio = sixteen.cost.dollars_per_million_tokens.expected / four.cost.dollars_per_million_tokens.expected
    corrected("ten-times-cheaper", same=math.isclose(ratio, 10, rel_tol=0.3))
    assert 1.5 < ratio < 5
