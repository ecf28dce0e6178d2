"""Casts to F32, F16 and BF16: the values are torch's, overflow is found first, and stock loaders take the files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bitwright import api
from bitwright.core.errors import InputError, UsageError
from bitwright.core.plan import DeviceFacts, Plan
from bitwright.facts.model import model_facts
from bitwright.formats.ggml.reader import GgufSource
from bitwright.formats.sniff import open_source, sniff
from bitwright.pipeline.casts import cast_loss
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
WIDE = "model.layers.0.mlp.down_proj.weight"
NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model")


@pytest.fixture
def overflowing(folder: Path) -> Path:
    """Three values of one matrix and one of a norm are beyond F16; two are too small for it."""
    path = folder / "model.safetensors"
    state = load_file(path)
    state[WIDE][0, :3] = torch.tensor([70000.0, -131072.0, 65536.0])
    state[WIDE][1, :2] = torch.tensor([2.0**-30, 2.0**-20])
    state[NORM][4] = 1e6
    save_file(state, path, metadata={"format": "pt"})
    return folder


def planned(folder: Path, **choices: object) -> Plan:
    return make_plan(model_facts(folder), DEVICE, use_case="chat", **choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("type", DTYPES)
def test_a_folder_is_a_checkpoint_that_transformers_loads(folder: Path, tmp_path: Path, type: str) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "out"
    plan = planned(folder, format="safetensors", type=type)
    record = quantize(plan, folder, out)
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    assert sniff(out) == "checkpoint"
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value.to(DTYPES[type]), rtol=0, atol=0)
    loaded = AutoModelForCausalLM.from_pretrained(out)
    assert loaded.dtype == DTYPES[type]
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


def test_overflow_is_named_before_anything_is_written(overflowing: Path, tmp_path: Path) -> None:
    for choices in ({"format": "safetensors", "type": "F16"}, {"type": "F16"}):
        with pytest.raises(InputError) as caught:
            quantize(planned(overflowing, **choices), overflowing, tmp_path / "out")
        norm = f"`{NORM}` (1 values, the largest 999424), " if "format" in choices else ""  # GGUF keeps vectors in F32
        count = "2 tensors hold" if norm else "1 tensor holds"
        assert caught.value.message == (
            f"{count} values beyond 65504, which F16 cannot store: {norm}`{WIDE}` (3 values, the largest 131072)"
        )
        assert caught.value.hint is not None
        assert "--type BF16" in caught.value.hint
        assert "--force" in caught.value.hint
        assert not list((tmp_path / "out").glob("*.safetensors")) + list((tmp_path / "out").glob("*.gguf"))


@pytest.mark.parametrize("format", ["safetensors", "gguf"])
def test_saturation_is_noted(overflowing: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    record = quantize(planned(overflowing, format=format, type="F16", saturate=True), overflowing, out)
    notes = {tensor.name: tensor.notes for tensor in record.tensors}
    assert notes[WIDE][0] == "F16: 3 of 8192 values are beyond 65504, the largest 131072; stored as 65504"
    assert "1 of 8192 values are below 2^-25 and become 0" in notes[WIDE][2]
    source = GgufSource(next(out.glob("*.gguf"))) if format == "gguf" else open_source(out)
    row = source.load(WIDE)[0, :3].float()
    assert row.tolist() == [65504.0, -65504.0, 65504.0]


def test_bf16_keeps_the_range(overflowing: Path, tmp_path: Path) -> None:
    quantize(planned(overflowing, format="safetensors", type="BF16"), overflowing, tmp_path / "out")
    assert float(open_source(tmp_path / "out").load(NORM).max()) == 999424.0


def test_a_cast_folder_is_judged(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    quantize(planned(folder, format="safetensors", type="F16"), folder, tmp_path / "out")
    record = api.validate(tmp_path / "out", folder, texts=[text], windows=2, length=16)
    assert record.texts[0].kl_mean.value < 1e-6


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"type": "Q4_K_M"}, "`Q4_K_M` is no floating-point type"),
        ({}, "no type was named"),
        ({"type": "F16", "method": "gptq"}, "no codes for `gptq`"),
    ],
)
def test_only_floats(folder: Path, choices: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        planned(folder, format="safetensors", **choices)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_losses_are_those_of_the_cast(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    with np.errstate(over="ignore"):
        cast = array.astype(np.float16).astype(np.float32)
    loss = cast_loss(array)
    assert loss.vanished == int(((cast == 0) & (array != 0)).sum())
    assert loss.beyond >= int(np.isinf(cast).sum())
    assert loss.beyond == int((np.abs(array) > 65504).sum())
