"""Predicted speeds against published measurements, and against the handbook where it is right."""

from __future__ import annotations

import dataclasses

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.devices import Rates
from bitwright.core.machine import MachineCalibration, ProductRate, TypeCost
from bitwright.core.provenance import provenance
from bitwright.facts.hardware import find_device
from bitwright.facts.speed_factors import ggml_costs
from bitwright.planner.machines import rate_of
from bitwright.planner.roofline import crossover
from bitwright.planner.speed import crossover_batch, relative_rate, speed
from bitwright.planner.step_weights import Matrices, matrices_of
from deployments import LLAMA_2_7B, LLAMA_2_70B, LLAMA_8B, LLAMA_70B, W4A16, deployment, llama, target
from model_shapes import shaped_facts

MODEL_8B, MODEL_70B = llama(**LLAMA_8B), llama(**LLAMA_70B)
TENSORRT = "tensorrt-llm"
# NVIDIA ModelOpt, examples/benchmark.md: H200, TensorRT-LLM 0.15, tokens per second of 2048 + 128 tokens
TYPES = ("BF16", "FP8_DYNAMIC", "W4A16", "W4AFP8")
MODELOPT_8B = {
    1: (173.80, 245.03, 231.75, 239.70),
    8: (803.11, 1051.17, 599.72, 801.72),
    64: (1679.74, 2190.93, 1392.78, 1930.86),
}
MODELOPT_70B = {  # BF16 on two devices
    1: (45.81, 43.46, 44.10, 46.31),
    8: (182.61, 182.07, 93.98, 140.02),
    64: (401.50, 420.64, 176.68, 345.43),
}


def test_products_in_16_bits_turn_compute_bound_at_295_tokens_on_an_h100() -> None:
    h100 = find_device("h100-sxm")
    assert h100.rates is not None
    assert h100.rates.bf16 is not None
    assert h100.bandwidth_gb_s is not None
    rate, bandwidth = h100.rates.bf16 * 1e12, h100.bandwidth_gb_s * 1e9
    assert crossover(2, rate, bandwidth) == pytest.approx(295, abs=1)
    assert crossover(0.5, rate, bandwidth) == pytest.approx(74, abs=1)
    for widening in (1.0, 1.3, 2.0):
        slower = crossover(2, rate, bandwidth, inflation=widening)
        assert slower == pytest.approx(295 / widening, abs=1)  # from here W4A16 loses to BF16
        tokens = slower * 1.01
        assert max(0.5 / bandwidth, widening * 2 * tokens / rate) > 2 / bandwidth
        tokens = slower * 0.99
        assert max(0.5 / bandwidth, widening * 2 * tokens / rate) < 2 / bandwidth


@pytest.mark.parametrize("batch", [1, 8, 32, 64, 128, 256, 1024])
def test_regimes_follow_the_crossover(batch: int) -> None:
    """The handbook's formula multiplies by the hidden size and gives 28 for H100, its text says 128: units disagree."""
    goal = target("h100-sxm", prompt=16, output=16, concurrency=batch)
    found = speed(deployment(MODEL_8B, "BF16", goal))
    assert found is not None
    # the factors of bandwidth and products shift the crossover from 295 to 221
    assert found.decode == ("memory" if batch < 221 else "compute")
    assert found.prefill == "compute"


def test_each_type_has_its_own_crossover() -> None:
    """By datasheet 295 for BF16 and FP8 and 74 for 4 bits; kernels and shares of the peaks move them."""
    goal = target("h100-sxm", prompt=16, output=16, concurrency=1)
    found = {type: crossover_batch(deployment(MODEL_8B, type, goal)) for type in ("BF16", "FP8_DYNAMIC", "W4A16")}
    assert found["BF16"] == pytest.approx(295 * 0.6 / 0.8, abs=2)
    assert found["W4A16"] is not None
    assert found["FP8_DYNAMIC"] is not None
    assert 295 / 4 / 1.15 < found["W4A16"] < 110
    assert 120 < found["FP8_DYNAMIC"] < 295
    on_cores = crossover_batch(
        deployment(MODEL_8B, "Q8_0", target("cpu-avx2", prompt=16, output=16, concurrency=1), engine="llama.cpp")
    )
    assert on_cores is not None
    assert 2 <= on_cores <= 12


@pytest.mark.parametrize(("facts", "table"), [(MODEL_8B, MODELOPT_8B), (MODEL_70B, MODELOPT_70B)])
def test_measured_throughput_lies_within_the_intervals(facts: object, table: dict[int, tuple[float, ...]]) -> None:
    for batch, row in table.items():
        goal = target("h200-sxm", prompt=2048, output=128, concurrency=batch)
        for type, measured in zip(TYPES, row, strict=True):
            ways = 2 if table is MODELOPT_70B and type == "BF16" else 1
            model = MODEL_8B if facts is MODEL_8B else MODEL_70B
            found = speed(deployment(model, type, goal, engine=TENSORRT, tensor_parallel=ways))
            assert found is not None
            rate = found.tokens_per_second
            assert rate.low <= measured <= rate.high, (batch, type, rate)
            if type in ("BF16", "FP8_DYNAMIC"):
                assert rate.expected == pytest.approx(measured, rel=0.31)


@pytest.mark.parametrize("batch", MODELOPT_8B)
def test_speedups_over_16_bits_and_their_order(batch: int) -> None:
    """INT4-AWQ 1.33, 0.75 and 0.83, FP8 1.41, 1.31 and 1.30 times BF16."""
    goal = target("h200-sxm", prompt=2048, output=128, concurrency=batch)
    base = deployment(MODEL_8B, "BF16", goal, engine=TENSORRT)
    measured = {type: row / MODELOPT_8B[batch][0] for type, row in zip(TYPES, MODELOPT_8B[batch], strict=True)}
    expected = {"BF16": 1.0}
    for type in TYPES[1:]:
        ratio = relative_rate(deployment(MODEL_8B, type, goal, engine=TENSORRT), base)
        assert ratio is not None
        assert ratio.low <= measured[type] <= ratio.high, (type, ratio)
        expected[type] = ratio.expected
    pair = ("BF16", "FP8_DYNAMIC", "W4A16")
    assert sorted(pair, key=lambda type: expected[type]) == sorted(pair, key=lambda type: measured[type])


@pytest.mark.parametrize(
    ("device", "type", "measured"),
    [("apple-m1-max", "Q4_K_M", (499.58, 46.2)), ("apple-m4", "Q4_K_M", (224.81, 20.87))],
)
def test_llama_cpp_on_apple(device: str, type: str, measured: tuple[float, float]) -> None:
    """github.com/brand-o/normiebench issues 40 and 3: Llama-3.1-8B, 512 tokens of prompt, 128 decoded."""
    goal = target(device, prompt=512, output=128, concurrency=1)
    found = speed(deployment(MODEL_8B, type, goal, engine="llama.cpp"))
    assert found is not None
    for figure, value in zip((found.prefill_tokens_per_second, found.user_tokens_per_second), measured, strict=True):
        assert figure.low <= value <= figure.high
        assert figure.expected == pytest.approx(value, rel=0.35)


# --- the decision framework handbook ---------------------------------------------------------------------------------


def test_worked_example_1_and_where_it_is_wrong() -> None:
    """7B chat on an A100, 8 users: 106 tokens/s each in 4 bits are right; 32 in FP16 are not, 13.5 GB at 2 TB/s and 8
    users are read in 7 ms: the handbook divides the batch's throughput by the batch once more."""
    goal = target("a100-80-sxm", prompt=512, output=512, concurrency=8)
    model = llama(**LLAMA_2_7B)
    four, sixteen = speed(deployment(model, "W4A16", goal)), speed(deployment(model, "BF16", goal))
    assert four is not None
    assert sixteen is not None
    assert four.user_tokens_per_second.low <= 106 <= four.user_tokens_per_second.high
    assert four.tokens_per_second.low <= 850 <= four.tokens_per_second.high
    assert (four.decode, sixteen.decode) == ("memory", "memory")
    assert sixteen.user_tokens_per_second.low > 40  # the handbook: 32, and so FP16 would fail the limit of 40


def test_worked_example_2() -> None:
    """70B on two H100, 128 requests: FP8 1.5 times FP16; 4 bits about as fast as FP16 and compute bound at 128, which
    16 bits are not (the handbook calls both compute bound: its crossover is too low)."""
    goal = target("h100-sxm:2", prompt=512, output=512, concurrency=128)
    model = llama(**LLAMA_2_70B)
    base = deployment(model, "BF16", goal, tensor_parallel=2)
    eight = relative_rate(deployment(model, "FP8_DYNAMIC", goal, tensor_parallel=2), base)
    four = deployment(model, "W4A16", goal, tensor_parallel=2)
    same = relative_rate(four, base)
    assert eight is not None
    assert same is not None
    assert eight.low <= 1.5 <= eight.high
    assert same.low <= 1.0 <= same.high
    assert eight.expected > same.expected
    regimes = [found.decode for found in (speed(four), speed(base)) if found is not None]
    assert regimes == ["compute", "memory"]
    assert all(found is not None and found.user_tokens_per_second.expected > 10 for found in (speed(four), speed(base)))


def test_worked_example_3() -> None:
    """7B on an M2 Max: above 15 tokens/s, Q4_K_M before Q5_K_M. The handbook's 24 is what F16 reaches."""
    goal = target("apple-m2-max", prompt=512, output=128, concurrency=1)
    rates = {}
    for type in ("Q5_K_M", "Q4_K_M", "F16"):
        found = speed(deployment(llama(**LLAMA_2_7B), type, goal, engine="llama.cpp"))
        assert found is not None
        rates[type] = found.user_tokens_per_second
    assert rates["Q5_K_M"].low > 15
    assert rates["Q4_K_M"].expected > rates["Q5_K_M"].expected
    assert rates["Q5_K_M"].low <= 24 <= rates["Q5_K_M"].high
    assert rates["F16"].low <= 24 <= rates["F16"].high


# --- parts -----------------------------------------------------------------------------------------------------------


def test_experts_are_read_as_tokens_choose_them() -> None:
    """8 experts, 2 a token: a quarter for one token, nearly all for 32; a token is multiplied by a quarter."""
    part = Matrices(scheme=W4A16, bytes=800, weights=1600, rows=8, experts=8, per_token=2)
    assert part.share_read(1) == pytest.approx(0.25)
    assert part.share_read(2) == pytest.approx(1 - 0.75**2)
    assert part.share_read(32) > 0.999
    assert part.share_multiplied == 0.25
    facts = shaped_facts("mixtral", layers=2, hidden=256, intermediate=512)
    goal = target("h100-sxm", prompt=8, output=8, concurrency=1)
    found = matrices_of(deployment(facts, "BF16", goal))
    routed = [part for part in found if part.experts]
    assert [(part.experts, part.per_token, part.weights) for part in routed] == [(8, 2, 2 * 8 * 3 * 256 * 512)]


def test_an_embedding_is_read_only_where_it_is_the_head() -> None:
    goal = target("h100-sxm", prompt=8, output=8, concurrency=1)
    untied, tied = shaped_facts(tied=False), shaped_facts(tied=True)
    heads = [sum(p.weights for p in matrices_of(deployment(f, "BF16", goal)) if p.head) for f in (untied, tied)]
    assert heads == [320 * 256, 320 * 256]
    assert sum(p.bytes for p in matrices_of(deployment(untied, "BF16", goal))) == untied.bytes - 2 * 320 * 256


def test_int8_is_a_trap_on_blackwell_ultra() -> None:
    """A B300 multiplies int8 at a fifteenth of its rate in BF16: an engine that still does it is slower than BF16."""
    goal = target("b300-sxm", prompt=2048, output=128, concurrency=64)
    base = deployment(MODEL_8B, "BF16", goal, engine="sglang")
    refused = deployment(MODEL_8B, "W8A8", goal)
    assert speed(refused) is None  # vLLM has no kernel
    hopper = deployment(MODEL_8B, "W8A8", target("h100-sxm", prompt=2048, output=128, concurrency=64))
    trap = dataclasses.replace(refused, kernel=hopper.kernel, engine="sglang")
    ratio = relative_rate(trap, base)
    assert ratio is not None
    assert ratio.high < 0.5
    gain = relative_rate(hopper, deployment(MODEL_8B, "BF16", hopper.target))
    assert gain is not None
    assert gain.expected > 1.2


def test_fp8_without_fp8_products_saves_memory_only() -> None:
    goal = target("a100-80-sxm", prompt=2048, output=128, concurrency=64)
    found = relative_rate(deployment(MODEL_8B, "FP8_DYNAMIC", goal), deployment(MODEL_8B, "BF16", goal))
    assert found is not None
    assert found.expected < 1.1


def test_nothing_is_said_without_rates() -> None:
    goal = target("h100-sxm", prompt=512, output=128, concurrency=1)
    eight = deployment(MODEL_8B, "W8A8", target("h100-sxm", prompt=512, output=128, concurrency=1))
    no_int8 = msgspec.structs.replace(goal.device, rates=Rates(bf16=989.0))
    assert speed(dataclasses.replace(eight, target=msgspec.structs.replace(goal, device=no_int8))) is None
    for device in (
        msgspec.structs.replace(goal.device, rates=None),
        msgspec.structs.replace(goal.device, bandwidth_gb_s=None),
    ):
        assert speed(deployment(MODEL_8B, "BF16", msgspec.structs.replace(goal, device=device))) is None
    on_cpu = msgspec.structs.replace(goal, device=find_device("cpu-avx2"))
    assert speed(deployment(MODEL_8B, "BF16", on_cpu)) is None  # vLLM: no table of its kernels on processors


def test_a_shared_prefix_is_not_computed_again() -> None:
    plain = speed(deployment(MODEL_8B, "BF16", target("h100-sxm", prompt=8192, output=128, concurrency=8)))
    kept = speed(deployment(MODEL_8B, "BF16", target("h100-sxm", prompt=8192, output=128, concurrency=8, shared=7000)))
    assert plain is not None
    assert kept is not None
    assert kept.ttft_seconds.expected < plain.ttft_seconds.expected / 3
    assert kept.tokens_per_second.expected > plain.tokens_per_second.expected


def test_devices_share_weights_and_pay_for_sums() -> None:
    goal = target("h100-sxm:8", prompt=512, output=512, concurrency=8)
    one, two, eight = (speed(deployment(MODEL_70B, "FP8_DYNAMIC", goal, tensor_parallel=n)) for n in (1, 2, 8))
    assert one is not None
    assert two is not None
    assert eight is not None
    rates = [found.user_tokens_per_second.expected for found in (one, two, eight)]
    assert 1.4 * rates[0] < rates[1] < 2 * rates[0]
    assert rates[2] < 4 * rates[1]
    cheap = msgspec.structs.replace(goal, device=msgspec.structs.replace(goal.device, link_gb_s=None))
    slow = speed(deployment(MODEL_70B, "FP8_DYNAMIC", cheap, tensor_parallel=8))
    assert slow is not None
    assert slow.ttft_seconds.expected > eight.ttft_seconds.expected


@settings(deadline=None, max_examples=40)
@given(
    type=st.sampled_from(["BF16", "FP8_DYNAMIC", "W4A16"]), device=st.sampled_from(["h100-sxm", "rtx4090", "l4"]),
    prompt=st.integers(1, 20000), output=st.integers(1, 2000), concurrency=st.integers(1, 300),
)  # fmt: skip
def test_ends_are_in_order(type: str, device: str, prompt: int, output: int, concurrency: int) -> None:
    found = speed(deployment(MODEL_8B, type, target(device, prompt=prompt, output=output, concurrency=concurrency)))
    assert found is not None
    for figure in (
        found.ttft_seconds, found.prefill_tokens_per_second, found.user_tokens_per_second, found.tokens_per_second,
    ):  # fmt: skip
        assert 0 < figure.low < figure.expected < figure.high
    more = speed(deployment(MODEL_8B, type, target(device, prompt=prompt, output=output, concurrency=concurrency + 1)))
    assert more is not None
    assert more.user_tokens_per_second.expected <= found.user_tokens_per_second.expected
    assert more.ttft_seconds.expected >= found.ttft_seconds.expected


# --- processors ------------------------------------------------------------------------------------------------------


def calibrated(**types: tuple[float, float]) -> MachineCalibration:
    """A machine of two cores."""
    return MachineCalibration(
        device="a processor", kind="cpu", cores=2, threads=2, copy_gb_s=20.0, products=(), engine="llama.cpp",
        types=tuple(TypeCost(type=name, decode=cost[0], prefill=cost[1]) for name, cost in types.items()),
        block_ns=8000.0, token_ns=3.0, attention_ns=19.2, prompt_attention_ns=0.03, seconds=1.0,
        provenance=provenance(),
    )  # fmt: skip


def test_a_calibrated_processor() -> None:
    """What was measured is used as it is, other types are as far from the table as those are."""
    table = ggml_costs()
    calibration = calibrated(Q8_0=(2 * table["Q8_0"].decode, 3 * table["Q8_0"].prefill))
    goal = target("cpu-avx2", prompt=512, output=64, concurrency=1)
    model = llama(**LLAMA_8B)
    for type, cost in (("Q8_0", table["Q8_0"]), ("F16", table["F16"])):
        wish = deployment(model, type, goal, engine="llama.cpp")
        found = speed(wish, calibration)
        assert found is not None
        assert found.source == "calibrated"
        weights = sum(part.weights for part in matrices_of(wish))
        memory = sum(part.bytes for part in matrices_of(wish)) / 20e9
        attention = 32 * 32 * 544 * 19.2e-9
        step = max(weights * 2 * cost.decode * 1e-9, memory) + attention + 32 * (8e-6 + 4096 * 3e-9)
        assert found.user_tokens_per_second.expected == pytest.approx(1 / step, rel=0.01)
        assert found.decode == "memory"
        assert found.prefill == "compute"


def test_where_memory_is_the_limit_other_types_cost_their_bytes() -> None:
    """Many cores: all measured types are read at 100 GB/s, so Q6_K is too, whatever unpacking it costs one core."""
    calibration = calibrated(F16=(0.02, 0.001), Q8_0=(1.0625 / 100, 0.001), Q4_K=(0.5625 / 100, 0.001))
    wish = deployment(
        llama(**LLAMA_8B), "Q6_K", target("cpu-avx2", prompt=16, output=16, concurrency=1), engine="llama.cpp"
    )
    found = speed(wish, calibration)
    assert found is not None
    read = sum(part.bytes for part in matrices_of(wish)) * found.user_tokens_per_second.expected
    assert 90e9 < read < 100e9


def test_calibration_narrows() -> None:
    goal = target("cpu-avx2", prompt=512, output=64, concurrency=1)
    wish = deployment(llama(**LLAMA_8B), "Q4_K_M", goal, engine="llama.cpp")
    before, after = speed(wish), speed(wish, calibrated(Q8_0=(0.1, 0.05)))
    assert before is not None
    assert after is not None
    spans = [found.user_tokens_per_second.high / found.user_tokens_per_second.low for found in (before, after)]
    assert spans[1] < 1.5 < 2.2 < spans[0]


def test_a_calibrated_gpu() -> None:
    goal = target("h100-sxm", prompt=2048, output=128, concurrency=8)
    wish = deployment(MODEL_8B, "BF16", goal)
    rows = tuple(
        ProductRate(type="bf16", tokens=n, inputs=4096, outputs=14336, tera_per_second=t)
        for n, t in ((512, 400.0), (4096, 700.0))
    )
    measured = msgspec.structs.replace(calibrated(), kind="gpu", copy_gb_s=2800.0, products=rows, types=())
    before, after = speed(wish), speed(wish, measured)
    assert before is not None
    assert after is not None
    assert after.source == "calibrated"
    spans = [found.prefill_tokens_per_second.high / found.prefill_tokens_per_second.low for found in (before, after)]
    assert spans[1] < spans[0]
    assert after.prefill_tokens_per_second.expected == pytest.approx(700e12 * 0.8 / (2 * 7e9), rel=0.15)


def test_rates_of_inputs() -> None:
    rates = Rates(bf16=1.0, fp8=2.0, int8=3.0, fp4=4.0)
    goal = target("h100-sxm", prompt=8, output=8, concurrency=1)
    found = {
        type: rate_of(deployment(MODEL_8B, type, goal).tensors[2].scheme, rates)
        for type in ("W8A8", "FP8", "NVFP4", "W4A16")
    }
    assert found == {"W8A8": 3.0, "FP8": 2.0, "NVFP4": 4.0, "W4A16": None}
