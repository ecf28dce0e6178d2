"""The handbooks' figures row by row: regimes, speeds of the examples, costs. Memory is test_handbook_memory.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.facts.corrections import corrections
from bitwright.planner.cost import per_million, replicas_for
from bitwright.planner.rules import regime
from bitwright.planner.speed import crossover_batch, relative_rate, speed
from deployments import LLAMA_2_7B, deployment, llama, target
from handbook import Row, chosen, corrected, facts_of, plan_of

MODEL = llama(**LLAMA_2_7B)
SHEETS = {"h100-sxm": (3.35, 990, 1979), "a100-80-sxm": (2.0, 312, 624), "rtx4090": (1.008, 330, 660)}  # TB/s, TFLOPS
DIFFERS = {("h100-sxm", 32), ("rtx4090", 32)}


def handbook_regime(device: str, batch: int, hidden: int = 4096) -> str:
    """`classify_workload` of the decision framework, step 2."""
    bandwidth, half, eight = SHEETS[device]
    sixteen_bits, eight_bits = int(bandwidth * 2 / half * hidden), int(bandwidth / eight * hidden)
    if batch < sixteen_bits:
        return "memory"
    return "transitional" if batch < 2 * eight_bits else "compute"


@pytest.mark.parametrize("batch", [1, 8, 32, 128, 512])
@pytest.mark.parametrize("device", SHEETS)
def test_regime_examples(device: str, batch: int) -> None:
    """Decision framework, step 2, printed for three devices and five batches."""
    ours = regime(MODEL, target(device, prompt=512, output=128, concurrency=batch))
    same = ours == handbook_regime(device, batch)
    if (device, batch) in DIFFERS:
        corrected("crossover-formula", same=same)
        assert ours == "memory"
    else:
        assert same


def test_the_threshold_that_the_text_names() -> None:
    """Decision framework, step 2: 128 on an H100 for FP16, where its own formula says 27."""
    found = crossover_batch(deployment(MODEL, "BF16", target("h100-sxm", prompt=512, output=128, concurrency=1)))
    assert found is not None
    corrected("crossover-text", same=abs(found - 128) < 30)
    assert 200 < found < 400


@pytest.mark.parametrize(
    ("type", "said", "correction"),
    [
        pytest.param("W4A16", 106, "", id="framework example 1, 4 bits"),
        pytest.param("BF16", 32, "sixteen-bits-per-user", id="framework example 1, 16 bits"),
    ],
)
def test_tokens_of_each_user(type: str, said: float, correction: str) -> None:
    found = speed(deployment(MODEL, type, target("a100-80-sxm", prompt=512, output=512, concurrency=8)))
    assert found is not None
    rate = found.user_tokens_per_second
    if correction:
        corrected(correction, same=rate.low <= said <= rate.high)
        assert rate.low > 40, "the limit that the handbook says is missed"
    else:
        assert rate.low <= said <= rate.high


def test_a_mac_is_faster_than_that() -> None:
    """Framework example 3: Q5_K_M at 24 tokens/s; above the 15 that are asked in any case."""
    goal = target("apple-m2-max", prompt=512, output=128, concurrency=1)
    found = speed(deployment(MODEL, "Q5_K_M", goal, engine="llama.cpp"))
    assert found is not None
    corrected("m2-speed", same=abs(found.user_tokens_per_second.expected / 24 - 1) < 0.25)
    assert found.user_tokens_per_second.low > 15


@pytest.mark.parametrize(
    ("device", "printed", "correction"),
    [
        pytest.param("a100-80-sxm", 3.3, "kernel-speed-ups", id="framework matrix, A100, one user"),
        pytest.param("rtx4090", 3.0, "", id="framework matrix, RTX 4090, one user"),
    ],
)
def test_speed_against_sixteen_bits(device: str, printed: float, correction: str) -> None:
    goal = target(device, prompt=128, output=512, concurrency=1)
    ratio = relative_rate(deployment(MODEL, "W4A16", goal), deployment(MODEL, "BF16", goal))
    assert ratio is not None
    if correction:
        corrected(correction, same=abs(ratio.expected / printed - 1) < 0.1)
        assert 2 < ratio.expected < 3
    else:
        assert ratio.expected == pytest.approx(printed, rel=0.2)


@pytest.mark.parametrize("batch", [64, 128])
def test_fp8_against_sixteen_bits(batch: int) -> None:
    """Framework matrix, 70B for 128 on two H100 and 405B: 1.5 times."""
    model = facts_of("llama-2-70b")
    goal = target("h100-sxm:2", prompt=512, output=512, concurrency=batch)
    base = deployment(model, "BF16", goal, tensor_parallel=2)
    ratio = relative_rate(deployment(model, "FP8_DYNAMIC", goal, tensor_parallel=2), base)
    assert ratio is not None
    assert ratio.low <= 1.5 <= ratio.high


@pytest.mark.parametrize(
    ("bits", "gpus", "printed_gpus", "printed"), [(16, 2, 4, 33.33), (8, 1, 2, 16.67), (4, 1, 1, 8.33)]
)
def test_cost_table(bits: int, gpus: int, printed_gpus: int, printed: float) -> None:
    """Decision framework, 70B on H100 at $3 for 100 tokens/s, four requests at once: devices by its own code."""
    step = 70e9 * bits / 8 / 3.35e12
    assert replicas_for(100, 4 / step) == gpus
    assert per_million(3.0 * printed_gpus, 100) == pytest.approx(printed, abs=0.01)
    if bits > 4:
        corrected("cost-table", same=gpus == printed_gpus)
    else:
        assert gpus == printed_gpus


@pytest.mark.parametrize(("type", "devices"), [("BF16", 2), ("FP8_DYNAMIC", 2), ("W4A16 g128 sym", 1)])
def test_devices_of_the_cost_table(type: str, devices: int) -> None:
    """Devices that 70B takes at that load by our figures: as its code, FP8 apart, which leaves no room on one."""
    row = Row(
        at="", model="llama-3.1-70b", target="h100-sxm:4", said={"concurrency": 4, "throughput": 100.0, "price": 3.0}
    )
    found = plan_of(row).ranking
    assert found is not None
    roomy = [o for o in found.options if o.type == type and o.memory.total.high < 0.95 * o.memory.available]
    assert roomy[0].devices == devices
    assert chosen(plan_of(row)).cost is not None


def test_every_correction_is_needed_somewhere() -> None:
    """By name in a test of the handbook or in its rows."""
    folder = Path(__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*handbook*")))
    assert [name for name in corrections() if f'"{name}"' not in text] == []
