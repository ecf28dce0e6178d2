"""The look ahead: what it counts, how predictions move with the request, what it says of engines and rows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bitwright.core.documents import to_json
from bitwright.core.plan import CalibrationPlan, DeviceFacts, ModelFacts, Plan
from bitwright.core.preflight import Preflight
from bitwright.facts.hardware import find_device
from bitwright.facts.model import model_facts
from bitwright.planner import duration
from bitwright.planner.build import make_plan
from bitwright.planner.duration import Judging, quantizing_time, usable_threads
from bitwright.planner.preflight import convert_preflight, disk_need, imatrix_preflight, quantize_preflight
from checkpoints import write_checkpoint, write_hollow

CPU = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
TEXT = CalibrationPlan(source=("text.txt",), samples=16, length=128)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    return model_facts(write_checkpoint(tmp_path_factory.mktemp("models") / "tiny", layers=3))


def plan(facts: ModelFacts, calibration: CalibrationPlan = TEXT, device: DeviceFacts = CPU, **choices: object) -> Plan:
    choices = {"type": "Q8_0"} | choices
    return make_plan(facts, device, use_case="chat", calibration=calibration, **choices)


def seconds(facts: ModelFacts, calibration: CalibrationPlan = TEXT, **choices: object) -> float:
    return quantizing_time(plan(facts, calibration, **choices)).total.expected


def test_time_grows_with_what_is_asked_for(facts: ModelFacts) -> None:
    more = msgspec.structs.replace(TEXT, samples=10_000)
    assert seconds(facts, more) > seconds(facts)
    assert seconds(facts, more, effort="best") > seconds(facts, more) > seconds(facts, more, effort="fast")
    assert seconds(facts, more) > seconds(facts, more, method="awq") > seconds(facts, more, method="rtn")
    rounded = {"type": "W8A8", "format": "compressed-tensors"}
    assert seconds(facts, **rounded, method="zeroquant") > seconds(facts, **rounded, method="smoothquant")
    written = msgspec.structs.replace(more, source=("self",))
    assert seconds(facts, written) > seconds(facts, more)
    assert seconds(facts, msgspec.structs.replace(more, source=()), method="rtn") < seconds(facts, more, method="rtn")
    assert seconds(facts, more, type="F16") == seconds(facts, type="F16")  # no text is read for a cast
    judged = quantizing_time(plan(facts), judging=Judging(tokens=10_000, sampled=True, measured=True))
    assert {"validating", "measuring speed"} <= {part.what for part in judged.parts}


def test_time_is_shared_among_threads(facts: ModelFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    more = msgspec.structs.replace(TEXT, samples=100_000)
    monkeypatch.setattr(duration, "usable_threads", lambda: 1)
    alone = seconds(facts, more)
    monkeypatch.setattr(duration, "usable_threads", lambda: 4)
    start = duration.cost.START_SECONDS
    assert seconds(facts, more) - start == pytest.approx((alone - start) / 4)


@pytest.mark.parametrize(("asked", "expected"), [("1", 1), ("0", None), ("", None), ("many", None), ("100000", None)])
def test_threads_asked_for(asked: str, expected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = usable_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert usable_threads() == (expected or cores)


TIMED = {  # processor seconds of runs over `wide`, one core (bench/results)
    "W4A16, 64 x 512": (270, 64, {"type": None, "format": "compressed-tensors", "bits": 4}),
    "W4A16 fast, 64 x 512": (130, 64, {"type": None, "format": "compressed-tensors", "bits": 4, "effort": "fast"}),
    "Q4_K_M, 32 x 512": (162, 32, {"type": "Q4_K_M"}),
}


@pytest.mark.parametrize("name", TIMED)
def test_runs_that_were_timed_lie_in_the_interval(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    took, samples, choices = TIMED[name]
    shape = {"hidden": 768, "layers": 30, "heads": 12, "kv_heads": 4, "intermediate": 1536, "vocab": 49152}
    wide = model_facts(write_hollow(tmp_path / "wide", **shape))
    monkeypatch.setattr(duration, "usable_threads", lambda: 1)
    text = msgspec.structs.replace(TEXT, samples=samples, length=512)
    need = quantizing_time(plan(wide, text, **choices)).total
    assert need.low < took < need.high
    assert took / 1.5 < need.expected < 1.5 * took  # the figures that it rests on


SHAPES = {
    "2 blocks of 8B": {"hidden": 4096, "layers": 2, "heads": 32, "kv_heads": 8, "intermediate": 14336, "vocab": 128256},
    "wide block": {"hidden": 1024, "layers": 1, "heads": 16, "kv_heads": 4, "intermediate": 8192, "vocab": 32768},
}
INTEGERS = {"type": None, "format": "compressed-tensors", "bits": 4}
MEASURED = [  # MiB of whole processes with one thread (docs/log.md); samples of 512 tokens, none without text
    (1001, "2 blocks of 8B", 0, {"type": "Q4_K_M", "method": "rtn"}),
    (965, "2 blocks of 8B", 0, {**INTEGERS, "method": "rtn"}),
    (901, "2 blocks of 8B", 0, {"type": "FP8_DYNAMIC", "method": "rtn"}),
    (225, "wide block", 0, {"type": "Q4_K_M", "method": "rtn"}),
    (786, "wide block", 0, {"type": "FP8_DYNAMIC", "method": "rtn"}),
    (1052, "wide block", 8, {**INTEGERS, "method": "awq"}),
    (1832, "wide block", 4, {**INTEGERS, "method": "gptq"}),
    (2559, "wide block", 32, {"type": "Q4_K_M", "method": "gptq"}),
    (2014, "wide block", 8, {**INTEGERS, "method": "gptq", "effort": "best"}),
]


@pytest.mark.parametrize(("mebibytes", "shape", "samples", "choices"), MEASURED)
def test_peaks_that_were_measured_lie_little_below_the_expected(
    mebibytes: int, shape: str, samples: int, choices: dict[str, object], tmp_path: Path
) -> None:
    model = model_facts(write_hollow(tmp_path / "model", **SHAPES[shape]))
    text = msgspec.structs.replace(TEXT, samples=samples, length=512) if samples else CalibrationPlan(source=())
    need = quantize_preflight(plan(model, text, **choices), tmp_path).memory.total
    assert need.expected / 1.25 < mebibytes * 2**20 < need.expected
    assert need.low < mebibytes * 2**20 < need.high


def test_disk_counts_work_and_what_is_reserved_already(facts: ModelFacts, tmp_path: Path) -> None:
    whole = quantize_preflight(plan(facts), tmp_path / "a" / "b").disk
    assert whole.where == str(tmp_path)
    hidden = 2 * 4 * 16 * 128 * 64
    assert whole.needed == plan(facts).file_bytes + hidden + 4 * 2**20
    (tmp_path / "out" / ".work").mkdir(parents=True)
    (tmp_path / "out" / ".work" / "x.partial").write_bytes(bytes(5000))
    assert quantize_preflight(plan(facts), tmp_path / "out").disk.needed == whole.needed - 5000
    assert quantize_preflight(plan(facts), tmp_path, made=True).disk.needed == 4 * 2**20
    best = quantize_preflight(plan(facts, effort="best"), tmp_path).disk.needed
    assert best == whole.needed + 16 * 128 * 64 * (4 * 2 + 8)
    assert disk_need(tmp_path, {"x": 3.0}).free > 0


def test_rows_that_do_not_fill_blocks_and_what_stays_float(facts: ModelFacts, tmp_path: Path) -> None:
    found = quantize_preflight(plan(facts, type="Q4_K_M"), tmp_path)
    assert {odd.inputs for odd in found.ragged} == {64, 128}
    assert {odd.done for odd in found.ragged} == {"Q4_K → Q5_0", "Q6_K → Q8_0"}
    assert {(kept.type, kept.because) for kept in found.kept} == {("F32", "vectors stay F32")}
    kept = quantize_preflight(plan(facts, type="FP8_DYNAMIC"), tmp_path).kept
    assert any("lm_head.weight" in row.tensors for row in kept)


def test_engines_on_the_planned_device(facts: ModelFacts, tmp_path: Path) -> None:
    choices = {"type": None, "format": "compressed-tensors", "bits": 4, "group_size": 32}
    found = quantize_preflight(plan(facts, device=find_device("rtx4090"), **choices), tmp_path)
    here = {fit.engine: (fit.devices, fit.kernel) for fit in found.engines if fit.here}
    assert here["vLLM 0.32"] == ("7.5 and later", "Marlin")
    wide = {fit.devices: fit.kernel for fit in found.engines if fit.engine == "SGLang 0.5.23"}
    assert wide == {"7.5": "", "8.0 and later": "Marlin", "CPU": ""}
    on_cpu = quantize_preflight(plan(facts, **choices), tmp_path)
    assert {fit.devices for fit in on_cpu.engines if fit.here} == {"CPU"}


def test_memory_that_is_not_there_is_warned_of(
    facts: ModelFacts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("working memory" in warning for warning in quantize_preflight(plan(facts), tmp_path).warnings)
    poor = msgspec.structs.replace(CPU, memory_bytes=2**20)
    monkeypatch.setattr("bitwright.planner.preflight.this_cpu", lambda: poor)
    assert any("working memory" in warning for warning in quantize_preflight(plan(facts), tmp_path).warnings)


def test_other_steps_and_the_document(facts: ModelFacts, tmp_path: Path) -> None:
    matrix = imatrix_preflight(facts, TEXT, tmp_path / "x.gguf")
    carried = convert_preflight(plan(facts), tmp_path / "out")
    assert (matrix.step, carried.step) == ("imatrix", "convert")
    assert matrix.engines == ()
    assert carried.engines
    for document in (matrix, carried):
        assert msgspec.json.decode(to_json(document), type=Preflight) == document
