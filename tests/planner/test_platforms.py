"""Devices of AMD, Intel and Apple: one row a platform and type, what a plan makes of it, and how it is launched."""

from __future__ import annotations

import pytest

from bitwright.core.choices import ArtifactFormat
from bitwright.core.devices import DeviceFacts
from bitwright.core.schemes import CodebookScheme, GgmlScheme, IntScheme, MinifloatScheme, QuantScheme
from bitwright.core.units import GIB
from bitwright.facts.catalogue import catalogue_facts, row_of_model
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.device_rows import hardware_rows
from bitwright.facts.engine_kernels import find_kernel, kernels, otherwise, platform_of, platforms
from bitwright.facts.engine_options import problems
from bitwright.facts.hardware import find_device
from bitwright.planner.build import make_plan
from bitwright.planner.capability import place_of, takes_fp8_cache
from bitwright.planner.engine_fit import engine_fits
from bitwright.planner.rules import computes
from bitwright.planner.wish import Wish
from model_shapes import shaped_facts

VLLM, SGLANG, CT = "vLLM 0.32", "SGLang 0.5.23", "compressed-tensors"
MODEL = shaped_facts(hidden=256, intermediate=512)
ROCM = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1201")
FP8, BLOCK, INT8 = COMPRESSED_TYPES["FP8_DYNAMIC"], COMPRESSED_TYPES["FP8_BLOCK"], COMPRESSED_TYPES["W8A8"]
FOUR, EIGHT = IntScheme(bits=4, group_size=128), IntScheme(bits=8, group_size=128)
UNEVEN = IntScheme(bits=4, group_size=128, symmetric=False)


def on(devices: str, engine: str, format: str, scheme: QuantScheme, kernel: str, how: str) -> list[tuple]:
    return [(device, engine, format, scheme, kernel, how) for device in devices.split()]


CASES = [
    *on("gfx942 gfx950 gfx1200 gfx1201", VLLM, CT, FP8, "hipBLASLt FP8, or AITER", "computes"),
    *on("gfx942", VLLM, "modelopt", COMPRESSED_TYPES["FP8"], "hipBLASLt FP8, or AITER", "computes"),
    *on("gfx90a gfx1100 gfx1151", VLLM, CT, FP8, "", "fails"),
    *on("gfx942 gfx950 gfx1201", VLLM, "fp8", BLOCK, "Triton block FP8, or AITER", "computes"),
    *on("gfx90a gfx1100", VLLM, CT, BLOCK, "Triton block FP8", "unknown"),
    *on("gfx942", VLLM, CT, MinifloatScheme(element="e4m3", scaling="channel"), "", "fails"),
    *on("gfx90a gfx942 gfx1100", VLLM, CT, INT8, "Triton int8, or AITER", "computes"),
    *on("gfx90a gfx942 gfx950", VLLM, CT, FOUR, "Triton W4A16", "widens"),
    *on("gfx942", VLLM, CT, IntScheme(bits=4, group_size=None), "Triton W4A16", "widens"),
    *on("gfx1100", VLLM, CT, FOUR, "RDNA3W4A16", "widens"),
    *on("gfx1100", VLLM, CT, UNEVEN, "RDNAHybridW4A16", "widens"),
    *on("gfx1151 gfx1201", VLLM, "gptq", FOUR, "RDNAHybridW4A16", "widens"),
    *on("gfx942", VLLM, "gptq_v2", FOUR, "Triton W4A16", "widens"),
    *on("gfx942", VLLM, "gptq_v2", UNEVEN, "", "fails"),
    *on("gfx942", VLLM, CT, EIGHT, "Conch, a package of its own", "widens"),
    *on("gfx942", VLLM, CT, IntScheme(bits=8, group_size=64), "Exllama", "widens"),
    *on("gfx942", VLLM, CT, IntScheme(bits=8, group_size=64, symmetric=False), "", "fails"),
    *on("gfx942", VLLM, "gptq", EIGHT, "Exllama, or Conch where that package is", "widens"),
    *on("gfx942", VLLM, CT, IntScheme(bits=3, group_size=128), "", "fails"),
    *on("gfx942 gfx1100", VLLM, "awq", UNEVEN, "Triton AWQ", "widens"),
    *on("gfx942", VLLM, CT, COMPRESSED_TYPES["W4AFP8"], "", "fails"),
    *on("gfx90a gfx942 gfx950", VLLM, CT, COMPRESSED_TYPES["NVFP4"], "emulation", "emulates"),
    *on("gfx942 gfx950", VLLM, CT, COMPRESSED_TYPES["NVFP4A16"], "", "fails"),
    *on("gfx950", VLLM, CT, COMPRESSED_TYPES["MXFP4"], "AITER MXFP4", "computes"),
    *on("gfx942 gfx90a", VLLM, CT, COMPRESSED_TYPES["MXFP4"], "emulation, with the package amd-quark", "emulates"),
    *on("gfx950", VLLM, CT, COMPRESSED_TYPES["MXFP8"], "Triton MXFP8", "computes"),
    *on("gfx942 gfx1201", VLLM, CT, COMPRESSED_TYPES["MXFP8"], "torch", "expands"),
    *on("gfx942 xe2 gaudi3", VLLM, "bitsandbytes", CodebookScheme(codebook="nf4"), "", "fails"),
    *on("gfx942 xe2 gaudi3", VLLM, "gguf", GgmlScheme(type="Q4_K"), "", "fails"),
    *on("xe2", VLLM, CT, FOUR, "XPUwNa16 (oneDNN)", "widens"),
    *on("xe2", VLLM, "gptq", FOUR, "XPUwNa16 (oneDNN)", "widens"),
    *on("xe2", VLLM, "gptq", EIGHT, "", "fails"),
    *on("xe2", VLLM, CT, FP8, "oneDNN FP8 beside 16-bit inputs", "widens"),
    *on("xe2", VLLM, CT, BLOCK, "oneDNN block FP8", "computes"),
    *on("xe2", VLLM, CT, INT8, "Triton int8", "computes"),
    *on("xe2", VLLM, CT, COMPRESSED_TYPES["MXFP4"], "oneDNN MXFP4", "computes"),
    *on("xe2", VLLM, CT, COMPRESSED_TYPES["MXFP8"], "oneDNN MXFP8", "computes"),
    *on("xe2", VLLM, CT, COMPRESSED_TYPES["NVFP4"], "", "fails"),
    *on("gaudi2 gaudi3", VLLM, CT, FP8, "vllm-gaudi FP8", "computes"),
    *on("gaudi3", VLLM, CT, BLOCK, "", "fails"),
    *on("gaudi3", VLLM, "fp8", BLOCK, "vllm-gaudi FP8", "computes"),
    *on("gaudi3", VLLM, "modelopt", COMPRESSED_TYPES["FP8"], "vllm-gaudi FP8", "computes"),
    *on("gaudi3", VLLM, CT, INT8, "torch, in BF16", "expands"),
    *on("gaudi3", VLLM, CT, FOUR, "vllm-gaudi convert_from_uint4", "widens"),
    *on("gaudi3", VLLM, CT, EIGHT, "", "fails"),
    *on("gaudi3", VLLM, "gptq", FOUR, "", "unknown"),
    *on("gfx942 gfx950", SGLANG, CT, FP8, "AITER or Triton FP8", "computes"),
    *on("gfx942", SGLANG, "awq", UNEVEN, "Triton AWQ", "widens"),
    *on("gfx942", SGLANG, "modelopt", COMPRESSED_TYPES["NVFP4"], "", "fails"),
    *on("gfx942 gfx90a xe2", SGLANG, CT, FOUR, "", "unknown"),
    *on("apple", "llama.cpp", "gguf", GgmlScheme(type="Q4_K"), "ggml-metal", "widens"),
    *on("xe2", "llama.cpp", "gguf", GgmlScheme(type="IQ4_XS"), "ggml-sycl, or ggml-vulkan", "computes"),
    *on("gaudi3", "llama.cpp", "gguf", GgmlScheme(type="Q8_0"), "", "fails"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "engine", "format", "scheme", "kernel", "how"), CASES)
def test_the_kernel_on_an_architecture(
    place: str, engine: str, format: ArtifactFormat, scheme: QuantScheme, kernel: str, how: str
) -> None:
    row = find_kernel(engine, format, scheme, place, ((4096, 4096),))
    assert (row.kernel, row.how) == (kernel, how)
    assert row.source
    assert row.kernel or row.because


@pytest.mark.parametrize("place", ROCM)
def test_llama_cpp_runs_every_type_on_amd(place: str) -> None:
    row = find_kernel("llama.cpp", "gguf", GgmlScheme(type="IQ4_XS"), place)
    assert row.kernel.startswith("ggml-hip")
    assert row.how == "computes"


def test_what_nobody_looked_up_is_said_so() -> None:
    assert find_kernel(VLLM, CT, FOUR, "ascend910").because == "not looked up on ascend910"
    assert find_kernel(VLLM, CT, FOUR, "").because == "not looked up on this device"
    assert platform_of(VLLM, "ascend910") is None
    assert platform_of(VLLM, (9, 0)) is None


def test_every_row_of_an_architecture_is_met() -> None:
    schemes: list[QuantScheme] = [scheme for *_, scheme, _, _ in CASES]
    places = {place for place, *_ in CASES}
    met = {
        id(find_kernel(row.engine, format, scheme, place))
        for row in kernels() if row.architectures
        for format in row.formats for scheme in schemes for place in places
    }  # fmt: skip
    assert [row for row in kernels() if row.architectures and id(row) not in met] == []
    assert all(row.architectures and row.source for row in platforms())
    assert len([row for row in otherwise() if row.architectures]) >= 7


@pytest.mark.parametrize("row", [row for row in hardware_rows().values() if row.vendor in ("AMD", "Intel", "Apple")])
def test_every_device_of_the_table_has_a_platform(row: object) -> None:
    device = find_device(row.id)  # type: ignore[attr-defined]
    place = place_of(device)
    if device.id == "cpu-spr":
        assert place is None
        return
    assert isinstance(place, str)
    assert platform_of("llama.cpp" if device.vendor == "Apple" else VLLM, place)


def test_places() -> None:
    assert place_of(find_device("h100-sxm")) == (9, 0)
    assert place_of(find_device("mi300x")) == "gfx942"
    assert place_of(find_device("apple-m2")) == "apple"
    assert place_of(DeviceFacts(name="a processor", kind="cpu", memory_bytes=GIB)) is None


@pytest.mark.parametrize(
    ("device", "fp8", "int8"),
    [
        ("mi300x", True, True), ("mi325x", True, True), ("mi355x", True, True), ("rx-9070-xt", True, True),
        ("mi250x", False, False), ("rx-7900-xtx", False, False),  # int8 at the rate of halves
        ("gaudi2", True, False), ("gaudi3", False, False),  # FP8 at the rate of BF16
        ("arc-b60", False, True), ("apple-m4-pro", False, False), ("h100-sxm", True, True), ("b200-sxm", True, False),
        ("a100-80-sxm", False, True), ("t4", False, True), ("rtx4090", True, True), ("v100-sxm2-32", False, False),
    ],
)  # fmt: skip
def test_what_is_computed_faster_than_in_sixteen_bits(device: str, fp8: bool, int8: bool) -> None:
    found = find_device(device)
    assert (computes(found, "fp8"), computes(found, "int8")) == (fp8, int8)


@pytest.mark.parametrize(
    ("target", "use_case", "said", "type"),
    [
        ("mi300x", "chat", {}, "FP8_DYNAMIC"),
        ("mi355x:2", "chat", {}, "FP8_DYNAMIC"),
        ("mi300x", "chat", {"concurrency": 512}, "FP8_DYNAMIC"),
        ("mi250x:4", "chat", {}, "W4A16 g128 sym"),
        ("gaudi3:2", "chat", {}, "FP8_DYNAMIC"),
        ("gaudi2:2", "chat", {}, "FP8_DYNAMIC"),
        ("rx-9070-xt", "chat", {}, "FP8_DYNAMIC"),
        ("rx-7900-xtx", "chat", {}, "W4A16 g128 sym"),
        ("arc-b60", "chat", {}, "W4A16 g128 sym"),
    ],
)
def test_a_plan_for_each_platform(target: str, use_case: str, said: dict[str, int], type: str) -> None:
    row = row_of_model("llama-3.1-8b")
    assert row is not None
    wish = Wish(**said)  # type: ignore[arg-type]
    plan = make_plan(catalogue_facts(row), find_device(target), use_case=use_case, wish=wish)
    assert (plan.type, plan.engine, plan.format) == (type, "vllm", CT)
    assert plan.ranking is not None
    first = plan.ranking.options[0]
    assert first.speed is not None
    assert first.kernel
    told = first.speed.user_tokens_per_second
    assert told.high > 4 * told.low  # nothing was measured there
    assert not any("not looked up" in refused.because for refused in plan.ranking.refused)
    for option in plan.ranking.options:
        assert not problems("vllm", list(option.launch)), option.launch


def test_advice_stands_beside_the_line() -> None:
    plan = make_plan(MODEL, find_device("mi300x"), use_case="chat", wish=Wish())
    assert plan.ranking is not None
    (advice,) = [one for one in plan.ranking.options[0].reasons if one.choice == "environment, advice"]
    assert "VLLM_ROCM_USE_AITER=1" in advice.because
    assert not any("AITER" in word for word in plan.launch)
    other = make_plan(MODEL, find_device("mi250x"), use_case="chat", wish=Wish())
    assert other.ranking is not None
    assert not any(one.choice == "environment, advice" for one in other.ranking.options[0].reasons)


def test_keys_and_values_in_fp8_where_that_was_looked_up() -> None:
    assert [takes_fp8_cache("vllm", find_device(name)) for name in ("mi300x", "rx-9070-xt", "a100-80-sxm")] == [
        True
    ] * 3
    assert not any(takes_fp8_cache("vllm", find_device(name)) for name in ("mi250x", "gaudi3", "arc-b60"))
    asked = make_plan(MODEL, find_device("gaudi3"), use_case="chat", wish=Wish(kv_cache="fp8"))
    assert asked.launch[-2:] == ("--kv-cache-dtype", "fp8_inc")
    assert not problems("vllm", list(asked.launch))


def test_a_plan_warns_of_what_its_engine_does_not_have() -> None:
    def warned(target: str, type: str) -> str:
        return "\n".join(make_plan(MODEL, find_device(target), use_case="chat", type=type).warnings)

    assert "vLLM on Instinct MI250X, one of the two dies of a card does not run FP8_DYNAMIC" in warned(
        "mi250x", "FP8_DYNAMIC"
    )
    assert "emulates NVFP4" in warned("mi300x", "NVFP4")
    assert "expands W8A8" in warned("gaudi3", "W8A8")
    assert any("vllm-gaudi" in told for told in make_plan(MODEL, find_device("gaudi3"), use_case="chat").warnings)
    assert warned("mi300x", "FP8_DYNAMIC") == ""


def test_the_planned_architecture_stands_in_the_table_of_engines() -> None:
    plan = make_plan(MODEL, find_device("mi300x"), use_case="chat", type="FP8_DYNAMIC")
    here = {fit.engine: fit for fit in engine_fits(plan) if fit.here}
    assert (here[VLLM].devices, here[VLLM].how) == ("gfx942", "computes")
    assert "E4M3FNUZ" in here[VLLM].because
    known = make_plan(MODEL, find_device("h100-sxm"), use_case="chat", type="FP8_DYNAMIC")
    assert not any(fit.devices.startswith("gfx") for fit in engine_fits(known))
