"""Adapters, float GGUF files and importance matrices from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitwright.core.documents import read_document
from bitwright.core.plan import Plan
from bitwright.core.records import ImatrixRecord, QuantRecord
from command_line import Run


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    name = "base_model.model.model.layers.0.self_attn.o_proj.lora_"
    tensors = {f"{name}A.weight": torch.ones(2, 64), f"{name}B.weight": torch.ones(64, 2) / 8}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def test_an_importance_matrix_there_and_back(run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    matrix, out = tmp_path / "m.gguf", tmp_path / "out"
    words = ("--calibration", text, "--samples", "2", "--length", "32", "--json", "--quiet")
    answer = run("imatrix", tiny, "--out", matrix, *words)
    assert (answer.code, answer.err) == (0, "")
    assert json.loads(answer.out)["schema"] == ImatrixRecord.__struct_defaults__[0]
    assert run("quantize", tiny, "--out", out, "--type", "Q4_0", "--imatrix", matrix, "--quiet").code == 0
    made = read_document(QuantRecord, out / "quant.json")
    assert (made.plan.method, made.calibration.source, made.calibration_sha256) == ("rtn", (), "")
    refused = run("quantize", tiny, "--out", tmp_path / "b", "--type", "Q4_0", "--imatrix", matrix, "--method", "gptq")
    assert refused.code == 2
    assert "--method rtn" in refused.hints[0]


def test_ship_with_an_adapter_from_a_float_gguf(
    run: Run, tiny: Path, text: Path, judged: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitwright.api.shipment.measure_speed", lambda *_, **__: None)
    assert run("quantize", tiny, "--out", tmp_path / "f16", "--type", "F16", "--quiet").code == 0
    (base,) = (tmp_path / "f16").glob("*.gguf")
    plan = tmp_path / "plan.json"
    assert run("plan", base, "--type", "Q8_0", "--lora", adapter, "--out", plan, "--explain").code == 0
    assert read_document(Plan, plan).model.adapter == str(adapter)
    words = ("--type", "Q8_0", "--calibration", text, "--samples", "2", "--length", "32", "--no-serve", "--quiet")
    words += ("--text", judged, "--windows", "4", "--window-length", "32", "--lora", adapter)
    answer = run("ship", base, "--out", tmp_path / "out", *words)
    assert answer.errors == []
    assert answer.code in (0, 1, 4)
    other = run("validate", tmp_path / "out", "--reference", base, "--text", judged, "--windows", "4", "--quiet")
    assert (other.code, "was made from" in other.errors[0]) == (2, True)


def test_a_missing_adapter_is_named(run: Run, tiny: Path, tmp_path: Path) -> None:
    answer = run("plan", tiny, "--lora", tmp_path / "none")
    assert answer.code == 2
    assert "adapter" in answer.errors[0]
