"""Decisions: the two steps, the use case, what was asked for, what fits, and what is refused."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.documents import read_document, to_json, write_document
from bitwright.core.errors import EnvironmentFault, UnsupportedError, UsageError
from bitwright.core.plan import USE_CASES, CalibrationPlan, DeviceFacts, ModelFacts, Plan
from bitwright.core.schemes import FloatScheme, IntScheme
from bitwright.core.units import GIB
from bitwright.facts.compressed_types import COMPRESSED_TYPES, compressed_types
from bitwright.facts.hardware import find_device
from bitwright.planner.build import make_plan
from bitwright.planner.cache_bytes import kv_cache_bytes
from model_shapes import shaped_facts

CPU = DeviceFacts(name="a processor", kind="cpu", memory_bytes=16 * GIB)
GPU = find_device("rtx4090")
MODEL = shaped_facts()
TEXT_CASES = [use_case for use_case in USE_CASES if use_case != "vlm"]  # which needs a vision tower
ODD = shaped_facts(hidden=192, intermediate=384, heads=3, kv_heads=3)  # 64 divides, 128 does not


@pytest.mark.parametrize(
    ("use_case", "cpu", "gpu"),
    [
        ("chat", "Q4_K_M", "W4A16 g128 sym"),
        ("code", "Q5_K_M", "W8A16 g128 sym"),
        ("medical-legal", "Q8_0", "W8A16 g128 sym"),
        ("summarization", "Q4_K_M", "W4A16 g128 sym"),
    ],
)
def test_the_two_steps_refined_by_use_case(use_case: str, cpu: str, gpu: str) -> None:
    plan = make_plan(MODEL, CPU, use_case=use_case)
    assert (plan.format, plan.type, plan.engine, plan.method) == ("gguf", cpu, "llama.cpp", "gptq")
    assert plan.launch == ("bitwright", "serve", "{artifact}", "--context", "4096")
    plan = make_plan(MODEL, GPU, use_case=use_case)
    assert (plan.format, plan.type, plan.engine) == ("compressed-tensors", gpu, "vllm")
    assert (plan.launch[:3], plan.launch[-2:]) == (("vllm", "serve", "{artifact}"), ("--max-model-len", "4096"))


def test_hopper_takes_fp8_and_steps_down_to_integers() -> None:
    plan = make_plan(MODEL, find_device("h100-sxm:2"), use_case="chat")
    assert (plan.type, plan.format) == ("FP8_DYNAMIC", "compressed-tensors")
    assert {tensor.scheme.label for tensor in plan.tensors} == {"BF16", "FP8 channel A8 dynamic"}
    assert plan.launch[-2:] == ("--tensor-parallel-size", "2")
    assert not any("FP8" in warning for warning in plan.warnings)
    large = shaped_facts(layers=16, hidden=4096, intermediate=16384, heads=32, kv_heads=32)
    need = {name: make_plan(large, GPU, use_case="chat", type=name).memory.total for name in ("FP8_DYNAMIC", "W4A16")}
    between = DeviceFacts(
        name="small", kind="gpu", memory_bytes=sum(need.values()) // 2 * 25 // 23, compute_capability="9.0"
    )
    assert make_plan(large, between, use_case="chat").type == "W4A16 g128 sym"


@pytest.mark.parametrize("name", COMPRESSED_TYPES)
def test_every_named_type_is_planned_with_its_engine_s_limits(name: str) -> None:
    facts = shaped_facts(hidden=256, intermediate=512)
    plan = make_plan(facts, find_device("h200-sxm"), use_case="chat", type=name, format="compressed-tensors")
    assert plan.type == name
    scheme = msgspec.structs.replace(COMPRESSED_TYPES[name], scale_dtype="bf16")
    assert sum(tensor.scheme == scheme for tensor in plan.tensors) == 7 * facts.layers
    row = compressed_types()[name]
    assert len(row.source) > 10
    t4 = make_plan(facts, find_device("t4"), use_case="chat", type=name, format="compressed-tensors").warnings
    too_old = any("from compute capability" in warning for warning in t4)
    slower = any("to be computed in" in warning for warning in t4)
    assert (too_old, slower) == (version(row.least) > (7, 5), version(row.least) <= (7, 5) < version(row.native))
    blackwell = make_plan(
        facts, find_device("rtx5090"), use_case="chat", type=name, format="compressed-tensors"
    ).warnings
    assert any("no kernel" in warning for warning in blackwell) == (row.last is not None)


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def test_widths_without_a_common_kernel_are_named() -> None:
    for bits, warned in ((3, True), (6, True), (4, False), (8, False)):
        warnings = make_plan(MODEL, GPU, use_case="chat", type=f"W{bits}A16").warnings
        assert any("Humming" in warning for warning in warnings) == warned


def test_a_row_that_holds_no_whole_groups_names_a_type_without_them() -> None:
    odd = shaped_facts(hidden=72, intermediate=136, heads=3, kv_heads=3, head_dim=24)
    for name in ("NVFP4", "MXFP8"):
        with pytest.raises(UsageError, match="does not divide the 72 inputs") as caught:
            make_plan(odd, GPU, use_case="chat", type=name)
        assert "FP8_DYNAMIC" in (caught.value.hint or "")
    assert make_plan(odd, GPU, use_case="chat", type="FP8_BLOCK").type == "FP8_BLOCK"


def test_mxfp4_is_ggufs_unless_the_other_format_is_named() -> None:
    assert make_plan(MODEL, GPU, use_case="chat", type="MXFP4").format == "gguf"
    plan = make_plan(MODEL, GPU, use_case="chat", type="MXFP4", format="compressed-tensors")
    assert (plan.format, plan.type) == ("compressed-tensors", "MXFP4")


def test_a_gpu_too_old_for_the_kernels_gets_gguf() -> None:
    volta = DeviceFacts(name="a V100", kind="gpu", memory_bytes=32 * GIB, compute_capability="7.0")
    assert make_plan(MODEL, volta, use_case="chat").format == "gguf"
    turing = make_plan(MODEL, find_device("t4"), use_case="chat")
    assert any("--dtype half" in warning for warning in turing.warnings)


@pytest.mark.parametrize("target", ["cpu", "rtx4090", "h100-sxm"])
@pytest.mark.parametrize("use_case", TEXT_CASES)
def test_every_choice_has_a_reason_with_a_source(target: str, use_case: str) -> None:
    plan = make_plan(MODEL, find_device(target), use_case=use_case)
    assert len(plan.reasons) >= 4
    assert all(reason.choice and reason.because and len(reason.source) > 5 for reason in plan.reasons)
    assert "deployment guide §15, the production decision in two steps" in {reason.source for reason in plan.reasons}
    assert all(tensor.reason for tensor in plan.tensors)


def test_what_is_asked_for_is_obeyed() -> None:
    plan = make_plan(MODEL, GPU, use_case="chat", type="Q6_K", method="rtn", context=100)
    assert (plan.format, plan.type, plan.method, plan.memory.context) == ("gguf", "Q6_K", "rtn", 100)
    plan = make_plan(MODEL, CPU, use_case="code", format="compressed-tensors", bits=8, group_size=None, symmetric=False)
    assert plan.type == "W8A16 channel asym"
    assert any("AVX-512" in warning for warning in plan.warnings)
    assert any("Marlin" in warning for warning in plan.warnings)
    assert make_plan(MODEL, CPU, use_case="code", format="compressed-tensors").type == "W4A16 g128 sym"
    assert make_plan(MODEL, CPU, use_case="code", bits=4).type == "W4A16 g128 sym"
    assert make_plan(MODEL, GPU, use_case="code", format="gguf").type == "Q5_K_M"
    calibration = CalibrationPlan(source=("a.txt",), samples=3)
    assert make_plan(MODEL, CPU, use_case="chat", calibration=calibration).calibration == calibration


@pytest.mark.parametrize("label", ["W4A16 g64 asym", "W8A16 channel sym", "W4A16 g128 sym"])
def test_a_label_is_a_type(label: str) -> None:
    assert make_plan(MODEL, CPU, use_case="chat", type=label).type == label
    assert make_plan(MODEL, CPU, use_case="chat", type="W4A16", group_size=32).type == "W4A16 g32 sym"


def test_floats_are_cast() -> None:
    plan = make_plan(MODEL, CPU, use_case="chat", type="F16")
    assert (plan.method, plan.tensors[0].scheme.label) == ("rtn", "F16")


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ({"use_case": "chess"}, "use case `chess`", "chat"),
        ({"format": "ggml"}, "format `ggml`", "gguf"),
        ({"method": "gptw"}, "method `gptw`", "gptq"),
        ({"type": "Q4_KM"}, "type `Q4_KM`", "Q4_K_M"),
        ({"type": "Q4_K_M", "format": "compressed-tensors"}, "no compressed-tensors type", "--format gguf"),
        ({"type": "W4A16", "format": "gguf"}, "no GGUF type", "Q4_K_M"),
        ({"type": "W9A16"}, "9 bits", "2 to 8"),
        ({"format": "compressed-tensors", "bits": 1}, "1 bits", "2 to 8"),
        ({"type": "FP8_DYNAMC"}, "type `FP8_DYNAMC`", "FP8_DYNAMIC"),
        ({"type": "NVFP4", "format": "gguf"}, "no GGUF type", "Q4_K_M"),
        ({"type": "W8A8", "bits": 8}, "bits in its name", "--bits"),
        ({"format": "compressed-tensors", "group_size": 100}, "group size 100", "128"),
        ({"format": "gguf", "bits": 4}, "not chosen in GGUF", "Q4_K_M"),
        ({"type": "W4A16", "bits": 8}, "contradict", "one of them"),
        ({"context": 0}, "context of 0", "4096"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: dict[str, object], message: str, hint: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make_plan(MODEL, CPU, **({"use_case": "chat"} | words))
    assert hint in (caught.value.hint or "")


def test_an_unwritten_type_is_unsupported() -> None:
    with pytest.raises(UnsupportedError):
        make_plan(MODEL, CPU, use_case="chat", type="IQ2_XXS")


@settings(deadline=None)
@given(hidden=st.integers(1, 40), intermediate=st.integers(1, 40), group=st.sampled_from([32, 64, 128]))
def test_a_group_size_that_does_not_divide_is_always_refused(hidden: int, intermediate: int, group: int) -> None:
    facts = shaped_facts(hidden=16 * hidden, intermediate=16 * intermediate, heads=2, kv_heads=1, head_dim=64)
    inputs = (16 * hidden, 16 * intermediate, 128)
    asked = {"use_case": "chat", "format": "compressed-tensors", "group_size": group}
    if all(count % group == 0 for count in inputs):
        assert make_plan(facts, GPU, **asked).type == f"W4A16 g{group} sym"
        return
    with pytest.raises(UsageError, match=f"group size {group} does not divide the \\d+ inputs of `model") as caught:
        make_plan(facts, GPU, **asked)
    for size in (32, 64, 128):
        works = all(count % size == 0 for count in inputs)
        assert (f"--group-size {size}" in (caught.value.hint or "")) == works
    assert "channel" in (caught.value.hint or "")


def test_an_own_choice_takes_a_group_size_that_divides() -> None:
    plan = make_plan(ODD, GPU, use_case="chat")
    assert plan.type == "W4A16 g64 sym"
    assert any("128 does not divide" in reason.because for reason in plan.reasons)
    narrow = shaped_facts(hidden=48, intermediate=80, heads=3, kv_heads=3, head_dim=16)
    assert make_plan(narrow, GPU, use_case="chat").type == "W4A16 channel sym"


@settings(deadline=None)
@given(
    smaller=st.integers(0, 3 * GIB), more=st.integers(0, 3 * GIB), use_case=st.sampled_from(TEXT_CASES),
    kind=st.sampled_from(["cpu", "gpu"]),
)  # fmt: skip
def test_more_memory_never_makes_a_plan_infeasible_or_worse(smaller: int, more: int, use_case: str, kind: str) -> None:
    def planned(memory: int) -> Plan | None:
        device = DeviceFacts(name="d", kind=kind, memory_bytes=memory)
        try:
            return make_plan(MODEL, device, use_case=use_case)
        except EnvironmentFault:
            return None

    before, after = planned(smaller), planned(smaller + more)
    if before is not None:
        assert after is not None
        assert after.bits_per_weight >= before.bits_per_weight
        assert before.memory.total <= before.memory.available


def test_a_tight_memory_steps_down_with_a_reason_and_none_is_a_fault() -> None:
    model = shaped_facts(layers=8, hidden=1024, intermediate=4096, heads=16, kv_heads=16)
    need = {name: make_plan(model, CPU, use_case="medical-legal", type=name).memory.total for name in ("Q8_0", "Q6_K")}
    between = DeviceFacts(name="small", kind="cpu", memory_bytes=need["Q6_K"] * 15 // 14 * 10 // 9)
    plan = make_plan(model, between, use_case="medical-legal")
    assert plan.type == "Q6_K"
    assert any("Q8_0 does not fit" in reason.because for reason in plan.reasons)
    tiny = DeviceFacts(name="tiny", kind="cpu", memory_bytes=1000)
    with pytest.raises(EnvironmentFault, match=r"needs .* at a context of 4096 tokens, tiny has 900 B"):
        make_plan(model, tiny, use_case="medical-legal")
    forced = make_plan(model, tiny, use_case="medical-legal", type="Q8_0")
    assert any("needs" in warning and "tiny" in warning for warning in forced.warnings)


def test_memory_is_the_sum_of_its_parts() -> None:
    plan = make_plan(MODEL, GPU, use_case="chat", context=1000)
    memory = plan.memory
    shapes = 2 * 8 * sum(isinstance(tensor.scheme, IntScheme) for tensor in plan.tensors)
    assert memory.weights == sum(tensor.bytes for tensor in plan.tensors) - shapes, "vLLM keeps no weight_shape"
    assert memory.kv_cache == kv_cache_bytes(MODEL, 1008) == 2 * 2 * 2 * 64 * 2 * 1008, "in blocks of 16 tokens"
    assert memory.total == memory.weights + memory.kv_cache + memory.overhead


def test_context_is_cut_to_the_models() -> None:
    assert make_plan(MODEL, CPU, use_case="chat", context=10**6).memory.context == MODEL.context


def test_small_models_are_warned_of_few_bits() -> None:
    assert any("under a billion" in warning for warning in make_plan(MODEL, CPU, use_case="chat").warnings)
    assert not make_plan(MODEL, CPU, use_case="medical-legal").warnings
    large = shaped_facts(layers=16, hidden=2048, intermediate=8192, heads=32, kv_heads=32, vocab=32000)
    assert large.parameters > 10**9
    assert not make_plan(large, CPU, use_case="chat").warnings


@pytest.mark.parametrize("facts", [MODEL, ODD, shaped_facts("qwen2", tied=True), shaped_facts("qwen3")])
def test_only_linears_of_blocks_become_integers(facts: ModelFacts) -> None:
    plan = make_plan(facts, GPU, use_case="chat")
    integers = [tensor for tensor in plan.tensors if isinstance(tensor.scheme, IntScheme)]
    assert len(integers) == 7 * facts.layers
    assert all(tensor.name.endswith("_proj.weight") and ".layers." in tensor.name for tensor in integers)
    others = [tensor for tensor in plan.tensors if not isinstance(tensor.scheme, IntScheme)]
    assert all(tensor.scheme == FloatScheme(dtype="bf16") for tensor in others)
    assert {tensor.name for tensor in plan.tensors} == {tensor.name for tensor in facts.tensors}
    assert all(tensor.bytes == 2 * math.prod(tensor.shape) for tensor in others)


def test_a_plan_survives_the_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    for device in (CPU, GPU):
        plan = make_plan(MODEL, device, use_case="chat")
        write_document(plan, path)
        assert read_document(Plan, path) == plan
        assert path.read_bytes() == to_json(make_plan(MODEL, device, use_case="chat"))


def test_a_gpu_whose_kernels_are_not_known_is_planned_with_a_warning() -> None:
    strange = DeviceFacts(name="a new GPU", kind="gpu", memory_bytes=24 * GIB, architecture="npu7")
    plan = make_plan(MODEL, strange, use_case="chat")
    assert (plan.format, plan.engine) == ("compressed-tensors", "vllm")
    assert any("a new GPU was not looked up" in warning for warning in plan.warnings)
    for known in ("a100-80-sxm", "mi300x"):
        plan = make_plan(MODEL, find_device(known), use_case="chat")
        assert not any("not looked up" in warning for warning in plan.warnings)
