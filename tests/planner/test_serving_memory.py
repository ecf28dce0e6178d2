"""Bytes on one device: exact where an engine's own log is, and laws that hold for every model and load."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.attention import CacheGroup, CacheLayout, StateGroup
from bitwright.core.plan import ModelFacts
from bitwright.core.ranking import DeviceMemory
from bitwright.core.units import GIB, MIB
from bitwright.facts.catalogue import catalogue, catalogue_facts
from bitwright.planner.cache_bytes import all_cells, allocated_bytes, cells_of, paged_bytes, token_bytes
from bitwright.planner.deployment import Deployment
from bitwright.planner.device_weights import device_weights, stage_ends
from bitwright.planner.engine_memory import activations
from bitwright.planner.serving_memory import device_memory
from deployments import LLAMA_8B, deployment, llama, target
from model_shapes import shaped_facts

RESULTS = Path(__file__).parents[2] / "bench/results/serving_memory.json"
REF = shaped_facts(
    layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocab=49152, tied=True
)  # fmt: skip
WIDE = shaped_facts(
    layers=30, hidden=768, intermediate=1536, heads=12, kv_heads=4, head_dim=64, vocab=49152, tied=False
)  # fmt: skip
MODELS = {"ref": REF, "wide": WIDE}


def on_processor(facts: ModelFacts, type: str, context: int, cache: str = "16-bit") -> Deployment:
    asked = deployment(facts, type, target("cpu-avx2", prompt=context - 1, output=1, concurrency=1), engine="llama.cpp")
    return _with(asked, kv_cache=cache)


def _with(asked: Deployment, **changed: Any) -> Deployment:
    fields = {name: getattr(asked, name) for name in Deployment.__dataclass_fields__}
    return Deployment(**fields | changed)


def measured(engine: str) -> list[Any]:
    results = json.loads(RESULTS.read_text())["results"].values()
    return [pytest.param(result, id=f"{result['model']} {result['type']} {result['context']} {result['cache']}")
            for result in results if result["engine"] == engine]  # fmt: skip


@pytest.mark.parametrize("result", measured("llama.cpp"))
def test_every_buffer_of_llamacpp_has_the_size_that_it_logged(result: dict[str, Any]) -> None:
    asked = on_processor(MODELS[result["model"]], result["type"], result["context"], result["cache"])
    memory, logged = device_memory(asked), result["logged"]
    assert memory.weights / MIB == pytest.approx(
        logged["CPU_Mapped model"] + logged.get("CPU_REPACK model", 0.0), abs=0.7
    ), "the mapped range ends with the last tensor that is not repacked"
    assert memory.kv_cache / MIB == pytest.approx(logged["CPU KV"], abs=0.01)
    work = 2 * 512 * 1536 / MIB  # inputs of the widest product, which the log does not name
    buffers = logged["CPU compute"] + logged["CPU output"] + work
    assert memory.activations.expected / MIB == pytest.approx(buffers, rel=0.01)
    assert memory.activations.low / MIB < buffers < memory.activations.high / MIB
    assert memory.total.expected == pytest.approx(result["measured_bytes"], rel=0.05)
    assert memory.total.low <= result["measured_bytes"] <= memory.total.high


@pytest.mark.parametrize("result", measured("vllm"))
def test_vllm_on_a_processor_takes_what_was_measured(result: dict[str, Any]) -> None:
    """Its cache was given as 512 MiB; buffers are for 128 requests, its default."""
    goal = target("cpu-avx2", prompt=result["context"] - 1, output=1, concurrency=128)
    memory = device_memory(deployment(MODELS[result["model"]], result["type"], goal))
    rest = result["measured_bytes"] - 512 * MIB + memory.kv_cache
    assert memory.total.expected - memory.kv_cache + 512 * MIB == pytest.approx(result["measured_bytes"], rel=0.05)
    assert memory.total.low <= rest <= memory.total.high


# MiB of the compute buffer that llama.cpp build 11549 logged for random models of three blocks, at 512 and 4096 cells
BUFFERS = {
    "llama": ({}, 9.02, 12.52),
    "wide attention": ({"heads": 8, "kv_heads": 8, "intermediate": 512}, 7.02, 10.52),
    "few heads": ({"hidden": 512, "kv_heads": 1, "intermediate": 2048}, 17.52, 21.02),
    "phi3": ({"family": "phi3"}, 9.02, 12.52),
    "qwen3": ({"family": "qwen3"}, 9.02, 12.52),
    "mixtral": ({"family": "mixtral", "experts": 4}, 15.02, 18.52),
    "gemma2": ({"family": "gemma2"}, 9.53, 13.28),
    "gemma3": ({"family": "gemma3_text"}, 9.53, 13.28),
}


@pytest.mark.parametrize("name", list(BUFFERS))
def test_the_buffer_of_a_step_holds_for_other_families(name: str) -> None:
    changed, *sizes = BUFFERS[name]
    facts = shaped_facts(**{"layers": 3, "hidden": 256, "intermediate": 1024, "heads": 4, "kv_heads": 2} | changed)
    if name.startswith("gemma"):  # half of the blocks, or five of six, with a window of 32
        near = CacheGroup(layers=2, heads=2, key=64, value=64, window=32)
        far = CacheGroup(layers=1, heads=2, key=64, value=64)
        facts = msgspec.structs.replace(facts, cache=CacheLayout(groups=(far, near)))
    for context, logged in zip((512, 4096), sizes, strict=True):
        asked = on_processor(facts, "F16", context)
        work = 2 * 512 * max(facts.intermediate * (2 if name == "mixtral" else 1), facts.heads * 64) / MIB
        slots = 2 * 4 * 4 * facts.vocab / MIB
        assert activations(asked).expected / MIB - work == pytest.approx(logged + slots / 2, abs=0.06)


def test_llamacpp_keeps_a_window_for_each_slot_and_a_micro_batch() -> None:
    """llama.cpp logged 4096 and 768 cells for four slots and a window of 32: 4 · 32 + 512, to 256."""
    groups = tuple(CacheGroup(layers=1, heads=2, key=64, value=64, window=window) for window in (None, 32))
    gemma = msgspec.structs.replace(shaped_facts("gemma3_text"), cache=CacheLayout(groups=groups))
    asked = deployment(gemma, "F16", target("cpu-avx2", prompt=1023, output=1, concurrency=4), engine="llama.cpp")
    assert [kept for _, kept in cells_of(asked, all_cells(asked))] == [4096, 768]
    mistral = msgspec.structs.replace(gemma, family="mistral")
    assert {kept for _, kept in cells_of(_with(asked, facts=mistral), 4096)} == {4096}, "llama.cpp reads no window here"


@pytest.mark.parametrize(
    ("type", "bytes"), [("16-bit", 512), ("fp8", 256), ("q8_0", 272), ("q4_0", 144), ("int8", 256 + 4 * 4)]
)
def test_a_token_of_two_heads_in_every_type(type: str, bytes: int) -> None:
    assert token_bytes(CacheGroup(layers=1, heads=2, key=64, value=64), type) == bytes


def test_heads_are_shared_out_until_each_device_has_one_and_a_latent_is_copied() -> None:
    heads = CacheGroup(layers=1, heads=8, key=128, value=128)
    assert [token_bytes(heads, "16-bit", devices) // 512 for devices in (1, 2, 4, 8, 16)] == [8, 4, 2, 1, 1]
    latent = CacheGroup(layers=61, heads=1, key=576, value=0)
    assert {token_bytes(latent, "16-bit", devices) for devices in (1, 8)} == {1152}


def test_a_paged_cache_keeps_windows_states_and_shared_prefixes_once() -> None:
    groups = (
        CacheGroup(layers=1, heads=1, key=8, value=8),
        CacheGroup(layers=5, heads=1, key=8, value=8, window=64),
    )
    states = (StateGroup(layers=2, convolution=10, recurrent=100),)
    facts = msgspec.structs.replace(shaped_facts(), cache=CacheLayout(groups=groups, states=states))
    asked = deployment(facts, "BF16", target("a100-80-sxm", prompt=999, output=1, concurrency=3))
    each = 1008 + 5 * (64 + 16)
    assert paged_bytes(asked, 3, 1000) == 32 * 3 * each + 3 * 2 * 420
    assert paged_bytes(asked, 3, 1000, shared=500) == 32 * (3 * 512 + 496 + 5 * 3 * 80) + 3 * 2 * 420


def test_vllm_holds_codes_and_scales_and_casts_the_rest() -> None:
    """8.03 thousand million weights: 7.0 in 4 bits with a scale for 128, 1.05 of embedding and head in 16."""
    facts = llama(**LLAMA_8B)
    linears = 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096)
    norms = 65 * 4096
    asked = deployment(facts, "W4A16", target("a100-80-sxm", prompt=99, output=1, concurrency=1))
    assert device_weights(asked) == linears // 2 + linears // 64 + 2 * (2 * 128256 * 4096 + norms)


def test_tensor_parallelism_cuts_matrices_and_copies_what_is_small() -> None:
    facts = llama(**LLAMA_8B)
    asked = deployment(facts, "BF16", target("h100-sxm:16", prompt=99, output=1, concurrency=1))
    norms, attention, rest = 65 * 4096, 32 * 2 * 4096 * 4096, 32 * 3 * 14336 * 4096 + 2 * 128256 * 4096
    key_value = 32 * 2 * 1024 * 4096
    for devices in (1, 2, 8, 16):
        expected = 2 * (norms + (attention + rest) // devices + key_value // min(devices, 8))
        assert device_weights(_with(asked, tensor_parallel=devices)) == expected


def test_stages_are_cut_as_vllm_cuts_them() -> None:
    """get_pp_indices: what is left over goes to stages before the last."""
    assert [stage_ends(layers, stages) for layers, stages in ((32, 1), (10, 4), (61, 8))] == [
        [32], [2, 5, 8, 10], [7, 14, 22, 30, 38, 46, 54, 61],
    ]  # fmt: skip


def test_a_gpu_under_llamacpp_holds_no_table_of_embeddings() -> None:
    goal = target("rtx4090", prompt=99, output=1, concurrency=1)
    untied = deployment(WIDE, "Q4_K_M", goal, engine="llama.cpp")
    table = next(entry.bytes for entry in untied.tensors if entry.name == "model.embed_tokens.weight")
    assert device_weights(untied) == sum(entry.bytes for entry in untied.tensors) - table
    tied = deployment(REF, "Q4_K_M", goal, engine="llama.cpp")
    assert device_weights(tied) == sum(entry.bytes for entry in tied.tensors), "the head is a copy of it"


def test_fractions_mean_what_each_engine_means() -> None:
    """80 GB H100 and 16 GB of weights: of the whole, all but a reserve, of what is free."""
    facts = llama(**LLAMA_8B)
    asked = deployment(facts, "BF16", target("h100-sxm", prompt=1999, output=48, concurrency=4))
    whole = asked.target.device.memory_bytes
    memory = {
        engine: device_memory(_with(asked, engine=engine)) for engine in ("vllm", "sglang", "tensorrt-llm", "lmdeploy")
    }
    assert memory["vllm"].available == int(0.92 * whole)
    assert memory["sglang"].available == whole
    reserve = memory["sglang"].activations + memory["sglang"].overhead
    assert (reserve.low, reserve.high) == (reserve.expected, (512 + 8192 * 1.5 + 256 * 2) * MIB)
    for engine, fraction in (("tensorrt-llm", 0.9), ("lmdeploy", 0.8)):
        used = memory[engine].weights + (memory[engine].activations + memory[engine].overhead).high
        assert memory[engine].available == pytest.approx(used + fraction * (whole - used))
    token = 2 * 32 * 8 * 128 * 2
    for one in memory.values():
        used = one.weights + (one.activations + one.overhead).high
        assert one.kv_tokens == pytest.approx((one.available - used) / token, rel=1e-3), "2047 tokens take 128 blocks"


shapes = st.fixed_dictionaries({
    "layers": st.integers(1, 80), "heads": st.sampled_from([8, 16, 32]), "kv_heads": st.sampled_from([1, 2, 8]),
    "hidden": st.sampled_from([512, 2048, 8192]), "intermediate": st.sampled_from([1024, 28672]),
    "vocab": st.sampled_from([320, 32000, 128256]),
})  # fmt: skip
engines = st.sampled_from(["vllm", "sglang", "tensorrt-llm", "lmdeploy", "llama.cpp"])


def _predict(shape: dict[str, int], engine: str, prompt: int, concurrency: int, **changed: Any) -> DeviceMemory:
    facts = msgspec.structs.replace(llama(**shape), context=1 << 20)
    type = "Q4_K_M" if engine == "llama.cpp" else "BF16"
    goal = target("h100-sxm:64", prompt=prompt, output=64, concurrency=concurrency)
    return device_memory(_with(deployment(facts, type, goal, engine="llama.cpp" if type != "BF16" else "vllm"),
                               engine=engine, **changed))  # fmt: skip


def _needs(memory: DeviceMemory) -> tuple[float, ...]:
    return (memory.weights, memory.kv_cache, memory.total.low, memory.total.expected, memory.total.high)


@settings(deadline=None, max_examples=25)
@given(
    shape=shapes, engine=engines, prompt=st.integers(1, 100_000), more=st.integers(1, 10_000), many=st.integers(1, 200)
)
def test_longer_and_more_requests_never_need_less(
    shape: dict[str, int], engine: str, prompt: int, more: int, many: int
) -> None:
    least = _predict(shape, engine, prompt, many)
    assert all(part > 0 for part in _needs(least))
    assert least.kv_tokens >= 0
    assert least.total.low <= least.total.expected <= least.total.high
    for other in (_predict(shape, engine, prompt + more, many), _predict(shape, engine, prompt, many + 1)):
        assert all(a <= b for a, b in zip(_needs(least), _needs(other), strict=True))


@settings(deadline=None, max_examples=25)
@given(shape=shapes, engine=engines, way=st.sampled_from(["tensor_parallel", "pipeline_parallel"]))
def test_more_devices_never_need_more_of_each(shape: dict[str, int], engine: str, way: str) -> None:
    needs = [_needs(_predict(shape, engine, 1000, 8, **{way: devices})) for devices in (1, 2, 3, 4, 8, 16)]
    for fewer, more in itertools.pairwise(needs):
        assert all(a >= b for a, b in zip(fewer, more, strict=True))


@pytest.mark.parametrize("name", list(catalogue()))
def test_every_model_of_the_catalogue_can_be_predicted(name: str) -> None:
    facts = catalogue_facts(catalogue()[name])
    asked = deployment(facts, "BF16", target("h200-sxm:8", prompt=999, output=1, concurrency=8))
    memory = device_memory(_with(asked, tensor_parallel=8))
    assert facts.bytes / 8 <= memory.weights <= facts.bytes / 2
    assert 0 < memory.kv_cache < 40 * GIB
    assert allocated_bytes(asked, 256) > 0
