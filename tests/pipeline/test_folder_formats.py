"""From checkpoint to GPTQ, AWQ and bitsandbytes: sizes as planned, values as recorded, and plans that say why."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from bitwright.core.errors import BitwrightError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.facts.model import model_facts
from bitwright.formats.sniff import open_source
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
TEXT = "The quick brown fox jumps over the lazy dog. " * 120
CASES: list[dict[str, object]] = [
    {"format": "gptq", "bits": 4, "group_size": 64},
    {"format": "gptq", "bits": 3, "group_size": None, "method": "rtn"},
    {"format": "gptq", "bits": 4, "group_size": 64, "symmetric": False},
    {"format": "gptq_v2", "bits": 8, "group_size": None},
    {"format": "awq", "group_size": 32},
    {"format": "bitsandbytes"},
    {"type": "FP4"},
    {"type": "LLM.int8"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", hidden=128, intermediate=256, shards=2)


def plan_for(folder: Path, **choices: object) -> Plan:
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    calibration = CalibrationPlan(source=(str(text),), samples=6, length=32)
    # fast: columns keep their scale, so that norms are comparable with the checkpoint too
    choices = {"effort": "fast"} | choices
    return make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=calibration, **choices)


@pytest.mark.parametrize("choices", CASES, ids=lambda choices: "-".join(map(str, choices.values())))
def test_files_are_as_large_as_planned_and_hold_what_was_solved(
    folder: Path, tmp_path: Path, choices: dict[str, object]
) -> None:
    plan = plan_for(folder, **choices)
    record = quantize(plan, folder, tmp_path / "out")
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    stored = {}
    for file in record.files:
        stored |= load_file(tmp_path / "out" / file.name)
    held = {entry.name: 0 for entry in plan.tensors}
    for name, tensor in stored.items():
        owner = next(n for n in held if name == n or name.startswith(f"{n.removesuffix('.weight')}."))
        held[owner] += tensor.numel() * tensor.element_size()
    assert held == {entry.name: entry.bytes for entry in plan.tensors}
    source, reference = open_source(tmp_path / "out"), open_source(folder)
    for tensor in record.tensors:
        expected = reference.load(tensor.name).float().numpy()
        error = np.square(source.load(tensor.name).float().numpy() - expected).sum() / np.square(expected).sum()
        assert error == pytest.approx(tensor.weight_error, rel=1e-4, abs=1e-9)
    if plan.format == "bitsandbytes":
        assert record.calibration_sha256 == ""
        assert {tensor.method for tensor in record.tensors} == {"rtn", "cast"}


def test_a_kill_between_units_loses_nothing(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitwright.pipeline import output

    plan = plan_for(folder, type="NF4_DQ")
    whole = quantize(plan, folder, tmp_path / "whole")
    real, calls = output.GrowingArtifact.sync, []

    def sync(self: output.GrowingArtifact) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(self)

    monkeypatch.setattr(output.GrowingArtifact, "sync", sync)
    with pytest.raises(KeyboardInterrupt):
        quantize(plan, folder, tmp_path / "out")
    assert [file.sha256 for file in quantize(plan, folder, tmp_path / "out").files] == [
        file.sha256 for file in whole.files
    ]


def test_plans_name_format_engine_and_doubts(folder: Path, tmp_path: Path) -> None:
    symmetric, zeros = plan_for(folder, format="gptq"), plan_for(folder, format="gptq", symmetric=False)
    assert (symmetric.format, symmetric.engine, symmetric.launch[-2:]) == ("gptq", "vllm", ("--dtype", "half"))
    assert zeros.format == "gptq_v2"
    assert any("vLLM 0.32 loads GPTQ only symmetric" in warning for warning in zeros.warnings)
    assert not any("only symmetric" in warning for warning in symmetric.warnings)
    levels = plan_for(folder, type="NF4")
    assert (levels.format, levels.engine, levels.method, levels.type) == ("bitsandbytes", "sglang", "rtn", "NF4")
    assert any("vLLM 0.32 does not load bitsandbytes" in warning for warning in levels.warnings)
    assert not any("misreads" in warning for warning in levels.warnings)
    ragged = write_checkpoint(tmp_path / "ragged", hidden=96, intermediate=160, heads=4, kv_heads=2)
    assert any("misreads" in warning for warning in plan_for(ragged, type="NF4").warnings)
    assert plan_for(folder, format="awq").type == "W4A16 g128 asym"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"format": "gptq", "bits": 5}, "GPTQ files hold 2, 3, 4, 8 bits, not 5"),
        ({"format": "awq", "bits": 8}, "AWQ files hold 4 bits"),
        ({"format": "awq", "group_size": None}, "AWQ files hold 4 bits in groups"),
        ({"format": "gptq", "type": "Q4_K_M"}, "`Q4_K_M` is no gptq type"),
        ({"format": "gguf", "type": "NF4"}, "`NF4` is a bitsandbytes type"),
        ({"format": "bitsandbytes", "type": "NF5"}, "`NF5` is no bitsandbytes type"),
        ({"format": "bitsandbytes", "bits": 3}, "no 3-bit type"),
        ({"type": "NF4", "bits": 4}, "has its bits in its name"),
        ({"type": "NF4", "method": "gptq"}, "bitsandbytes has its own rounding"),
        ({"format": "gptq", "type": "W4A16", "bits": 8}, "contradict each other"),
    ],
)
def test_requests_that_cannot_be(folder: Path, choices: dict[str, object], message: str) -> None:
    with pytest.raises(BitwrightError, match=message) as caught:
        plan_for(folder, **choices)
    assert caught.value.hint
