"""Between formats with the same integers: every way that exists, every refusal, and a proof that can fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from bitwright import api
from bitwright.core.documents import read_document
from bitwright.core.errors import BitwrightError, MismatchError, UnsupportedError, UsageError
from bitwright.core.plan import CalibrationPlan, DeviceFacts
from bitwright.core.records import ConversionRecord, QuantRecord
from bitwright.core.schemes import GgmlScheme, IntScheme
from bitwright.facts.model import model_facts
from bitwright.formats.recode import Losses, as_integers, recode
from bitwright.formats.sniff import open_source, sniff
from bitwright.pipeline import convert as pipeline
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from bitwright.tensors.qtensor import QTensor
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
CT = "compressed-tensors"
WAYS: list[tuple[dict[str, Any], str, str]] = [
    ({"format": CT, "bits": 4, "group_size": 64}, "gptq", "W4A16 g64 sym"),
    ({"format": CT, "bits": 4, "group_size": 64}, "gptq_v2", "W4A16 g64 sym"),
    ({"format": CT, "bits": 4, "group_size": 64}, "awq", "W4A16 g64 asym"),
    ({"format": CT, "bits": 4, "group_size": 64, "symmetric": False}, "awq", "W4A16 g64 asym"),
    ({"format": CT, "bits": 4, "group_size": 64, "symmetric": False}, "gptq_v2", "W4A16 g64 asym"),
    ({"format": CT, "bits": 3, "group_size": None}, "gptq", "W3A16 channel sym"),
    ({"format": CT, "bits": 8, "group_size": None}, "gptq", "W8A16 channel sym"),
    ({"type": "W8A8"}, "gptq", "W8A16 channel sym"),
    ({"format": CT, "bits": 4, "group_size": 32}, "gguf", "Q4_0"),
    ({"format": CT, "bits": 4, "group_size": 128}, "gguf", "Q4_0"),
    ({"format": CT, "bits": 8, "group_size": 32}, "gguf", "Q8_0"),
    ({"format": CT, "bits": 5, "group_size": 32}, "gguf", "Q5_0"),
    ({"format": "gptq", "bits": 4, "group_size": 32}, "gguf", "Q4_0"),
    ({"format": "gptq", "bits": 8, "group_size": None}, CT, "W8A16 channel sym"),
    ({"format": "gptq", "bits": 4, "group_size": 64, "symmetric": False}, "awq", "W4A16 g64 asym"),
    ({"format": "gptq", "bits": 2, "group_size": 64, "symmetric": False}, CT, "W2A16 g64 asym"),
    ({"format": "awq", "group_size": 32}, "gptq_v2", "W4A16 g32 asym"),
    ({"format": "awq", "group_size": 32}, CT, "W4A16 g32 asym"),
    ({"format": "gguf", "type": "Q4_0"}, "gptq", "W4A16 g32 sym"),
    ({"format": "gguf", "type": "Q4_0"}, CT, "W4A16 g32 sym"),
    ({"format": "gguf", "type": "Q8_0"}, "gptq", "W8A16 g32 sym"),
    ({"type": "FP8_BLOCK"}, "fp8", "FP8 block A8 dynamic"),
    ({"type": "FP8"}, "fp8", "FP8 tensor A8 static"),
    ({"type": "FP8"}, "modelopt", "FP8 tensor A8 static"),
    ({"type": "FP8_DYNAMIC"}, "modelopt", "FP8 channel A8 dynamic"),
    ({"type": "MXFP8"}, "modelopt", "MXFP8 A8 dynamic"),
    ({"format": "fp8", "type": "FP8_BLOCK"}, CT, "FP8 block A8 dynamic"),
    ({"format": "fp8", "type": "FP8_TENSOR"}, CT, "FP8 tensor A8 dynamic"),
    ({"format": "fp8", "type": "FP8"}, "modelopt", "FP8 tensor A8 static"),
    ({"format": "modelopt", "type": "FP8"}, "fp8", "FP8 tensor A8 static"),
    ({"format": "modelopt", "type": "MXFP8"}, CT, "MXFP8 A8 dynamic"),
    ({"format": CT, "type": "MXFP4"}, "gguf", "MXFP4"),
    ({"format": CT, "type": "MXFP4A16"}, "gguf", "MXFP4"),
    ({"format": "gguf", "type": "MXFP4"}, CT, "MXFP4 A16"),
]
RECIPROCALS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "NVFP4"}, "modelopt", "NVFP4 A4 static"),
    ({"type": "NVFP4A16"}, "modelopt", "NVFP4 A16"),
    ({"format": "modelopt", "type": "NVFP4"}, CT, "NVFP4 A4 static"),
    ({"format": "modelopt", "type": "NVFP4A16"}, CT, "NVFP4 A16"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", hidden=256, intermediate=512, layers=1)


@pytest.fixture(scope="module")
def artifact(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes artifacts, each once."""
    made: dict[str, Path] = {}

    def make(**choices: Any) -> Path:
        key = json.dumps(choices, sort_keys=True)
        if key not in made:
            plan = make_plan(
                model_facts(folder), DEVICE, use_case="chat", method="rtn", calibration=calibration(folder), **choices
            )
            made[key] = tmp_path_factory.mktemp("artifact") / "out"
            quantize(plan, folder, made[key])
        return made[key]

    return make


def calibration(folder: Path) -> CalibrationPlan:
    text = folder.parent / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    return CalibrationPlan(source=(str(text),), samples=2, length=16)


@pytest.mark.parametrize(("choices", "format", "type"), WAYS, ids=lambda value: str(value).replace(" ", "-"))
def test_both_ends_decode_alike(
    artifact: Any, folder: Path, tmp_path: Path, choices: dict[str, Any], format: str, type: str
) -> None:
    before, after = artifact(**choices), tmp_path / "out"
    record = api.convert(before, format, after)
    assert (record.plan.format, record.plan.type) == (format, type)
    assert read_document(ConversionRecord, after / "conversion.json") == record
    assert sniff(after) == format.removesuffix("_v2")
    left, right = open_source(before), open_source(after)
    total = 0
    for name in left.names():
        np.testing.assert_array_equal(right.load(name).float().numpy(), left.load(name).float().numpy())
        total += left.load(name).numel()
    assert record.values == total
    if format != "gguf":
        assert sum(file.bytes for file in record.files) == record.plan.file_bytes
        card = (after / "README.md").read_text()
        assert f"Converted from {record.source_format} with the same integers: {total:,} values" in card
    made = read_document(QuantRecord, after / "quant.json")
    assert made.files == record.files
    assert made.plan.model.fingerprint == model_facts(folder).fingerprint


def test_there_and_back_gives_the_same_bytes(artifact: Any, tmp_path: Path) -> None:
    before = artifact(format="gptq", bits=4, group_size=32)
    api.convert(before, "gguf", tmp_path / "gguf")
    api.convert(tmp_path / "gguf", CT, tmp_path / "ct")
    api.convert(tmp_path / "ct", "gptq", tmp_path / "back")
    first, last = (load_file(path / "model.safetensors") for path in (before, tmp_path / "back"))
    quantized = [name for name in first if name.endswith(("qweight", "qzeros", "scales", "g_idx"))]
    assert quantized
    for name in quantized:
        np.testing.assert_array_equal(first[name].numpy(), last[name].numpy())


@pytest.mark.parametrize(("choices", "format", "type"), RECIPROCALS, ids=lambda value: str(value).replace(" ", "-"))
def test_factors_become_their_reciprocals_and_nothing_else(
    artifact: Any, tmp_path: Path, choices: dict[str, Any], format: str, type: str
) -> None:
    before, after = artifact(**choices), tmp_path / "out"
    record = api.convert(before, format, after)
    assert (record.plan.format, record.plan.type) == (format, type)
    assert "values agree within 2.4e-7" in record.notes[0]
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    names = {"weight": "weight_packed", "weight_scale": "weight_scale"}
    inverses = {"weight_scale_2": "weight_global_scale", "input_scale": "input_global_scale"}
    theirs, ours = (new, old) if format == "modelopt" else (old, new)
    for module in (name.removesuffix(".weight_scale_2") for name in theirs if name.endswith(".weight_scale_2")):
        for left, right in names.items():
            a, b = theirs[f"{module}.{left}"], ours[f"{module}.{right}"]
            np.testing.assert_array_equal(a.view(torch.uint8).numpy(), b.view(torch.uint8).numpy())
        for left, right in inverses.items():
            if f"{module}.{left}" in theirs:
                assert float(theirs[f"{module}.{left}"]) == pytest.approx(
                    1 / float(ours[f"{module}.{right}"]), rel=1e-7
                )
    left, right = open_source(before), open_source(after)
    for name in left.names():
        np.testing.assert_allclose(right.load(name).float(), left.load(name).float(), rtol=2.4e-7)
    first, last = (source.input_rounding("model.layers.0.mlp.up_proj") for source in (left, right))  # type: ignore[attr-defined]
    assert (first is None) == (last is None)
    if first is not None:
        assert last is not None
        assert (last.scheme, last.scale) == (first.scheme, pytest.approx(first.scale, rel=1e-6))


REFUSALS: list[tuple[dict[str, Any], str, str]] = [
    ({"format": "gguf", "type": "Q4_K_M"}, CT, r"Q[46]_K is no grid of integers"),
    ({"format": "bitsandbytes"}, "gptq", "bitsandbytes' levels have no peer"),
    ({"format": CT, "bits": 4, "group_size": 64}, "bitsandbytes", "bitsandbytes' levels are no integers"),
    ({"format": CT, "bits": 5, "group_size": 32}, "gptq", "2, 3, 4 or 8 bits, not 5"),
    ({"format": CT, "bits": 8, "group_size": 32}, "awq", "AWQ files hold 4 bits"),
    ({"format": CT, "bits": 4, "group_size": None}, "awq", "in groups of 32, 64 or 128"),
    ({"format": CT, "bits": 3, "group_size": 32}, "gguf", "GGUF has no type for W3A16"),
    ({"format": "awq", "group_size": 32}, "gguf", r"\d+ of \d+ scales do not survive the cast to 16 bits, the largest"),
    ({"format": CT, "bits": 4, "group_size": 64}, CT, "is compressed-tensors already"),
    ({"type": "FP8_DYNAMIC"}, "gptq", "is no grid of integers"),
    ({"type": "FP8_DYNAMIC"}, "fp8", "fp8 folders have no place for FP8 channel A8 dynamic"),
    ({"type": "FP8_BLOCK"}, "modelopt", "modelopt folders have no place for FP8 block"),
    ({"type": "NVFP4"}, "gguf", "keeps its factor in a tensor of its own"),
    ({"format": CT, "bits": 8, "group_size": None}, "fp8", "fp8 folders hold small floats"),
]


@pytest.mark.parametrize(
    ("choices", "format", "message"), REFUSALS, ids=lambda value: str(value).replace(" ", "-")[:40]
)
def test_what_does_not_carry_over_is_refused_with_the_command(
    artifact: Any, folder: Path, tmp_path: Path, choices: dict[str, Any], format: str, message: str
) -> None:
    with pytest.raises(UnsupportedError, match=message) as caught:
        api.convert(artifact(**choices), format, tmp_path / "out")
    assert "\n" not in caught.value.message
    assert caught.value.hint is not None
    assert f"bitwright quantize {folder} --out DIR --format {format}" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_version_one_refuses_a_zero_point_of_zero(artifact: Any, tmp_path: Path) -> None:
    before = artifact(format="gptq_v2", bits=4, group_size=64, symmetric=False)
    stored = load_file(before / "model.safetensors")
    name = next(name for name in stored if name.endswith("qzeros"))
    stored[name][0, 0] &= ~15
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in before.iterdir():
        if path.suffix == ".json" or path.suffix == ".jinja":
            (changed / path.name).write_bytes(path.read_bytes())
    save_file(stored, changed / "model.safetensors")
    with pytest.raises(BitwrightError, match="1 zero points are 0"):
        api.convert(changed, "gptq", tmp_path / "out")


def test_nothing_is_overwritten_and_nothing_is_left(artifact: Any, tmp_path: Path) -> None:
    before, out = artifact(format=CT, bits=4, group_size=64), tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        api.convert(before, "gptq", out)
    with pytest.raises(UsageError, match="unknown format `gqtp`") as caught:
        api.convert(before, "gqtp", tmp_path / "other")
    assert caught.value.hint is not None
    assert "gptq" in caught.value.hint
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "notes.txt"]


def test_the_proof_can_fail(artifact: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = artifact(format=CT, bits=4, group_size=64)
    real = pipeline.recode

    def wrong(value: QTensor, format: Any) -> tuple[QTensor, Losses]:
        carried, losses = real(value, format)
        codes = carried.codes.copy()
        codes[3, 5] ^= 1
        return QTensor(scheme=carried.scheme, codes=codes, fields=carried.fields), losses

    monkeypatch.setattr(pipeline, "recode", wrong)
    with pytest.raises(MismatchError, match=r"decodes differently from .*: 1 of \d+ values"):
        api.convert(before, "gptq", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_artifact_without_records(artifact: Any, tmp_path: Path) -> None:
    """What other tools wrote has neither plan nor record."""
    before = artifact(format="awq", group_size=32)
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_bytes((before / name).read_bytes())
    record = api.convert(bare, "gptq_v2", tmp_path / "out")
    assert record.source_format == "awq"
    assert not (tmp_path / "out" / "quant.json").exists()
    with pytest.raises(UnsupportedError) as caught:
        api.convert(bare, "bitsandbytes", tmp_path / "other")
    assert "bitwright quantize MODEL --out DIR --format bitsandbytes --type NF4" in str(caught.value.hint)


@given(
    st.sampled_from([2, 3, 4, 8]), st.sampled_from([32, 64, None]), st.booleans(), st.integers(1, 4),
    st.integers(0, 2**32 - 1), st.sampled_from(["compressed-tensors", "gptq", "gptq_v2", "awq", "gguf"]),
)  # fmt: skip
def test_recoding_keeps_every_value_or_says_so(
    bits: int, group: int | None, symmetric: bool, rows: int, seed: int, format: Any
) -> None:
    rng = np.random.default_rng(seed)
    columns, half = 128, 1 << (bits - 1)
    groups = columns // (group or columns)
    scale = rng.uniform(-1, 1, (rows, groups)).astype(np.float16 if seed % 2 else np.float32).astype(np.float32)
    fields: dict[str, Any] = {"scale": scale}
    if not symmetric:
        fields["zero_point"] = rng.integers(-half, half, (rows, groups)).astype(np.int8)
    codes = rng.integers(-half, half, (rows, columns)).astype(np.int8)
    scheme = IntScheme(bits=bits, group_size=group, symmetric=symmetric, scale_dtype="f32")
    value = QTensor(scheme=scheme, codes=codes, fields=fields)
    try:
        carried, losses = recode(value, format)
    except UnsupportedError:
        return
    if losses.count == 0:
        np.testing.assert_array_equal(carried.decode(), value.decode())
    else:
        assert format != "compressed-tensors"
        assert 0 < losses.largest < 1
    if isinstance(carried.scheme, GgmlScheme) and symmetric and losses.count == 0:
        np.testing.assert_array_equal(as_integers(carried).decode(), value.decode())
