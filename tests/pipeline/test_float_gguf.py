"""A float GGUF file as MODEL: the same tensors as from the Hugging Face folder, and its tokenizer carried over."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from bitwright import api
from bitwright.core.errors import MismatchError, UnsupportedError, UsageError
from bitwright.core.plan import CalibrationPlan, Plan
from bitwright.facts.families import FAMILIES
from bitwright.formats.original import open_original
from bitwright.formats.sniff import gguf_file
from checkpoints import write_checkpoint
from command_line import text_file

SHAPE = {"hidden": 256, "heads": 4, "kv_heads": 2, "intermediate": 256, "layers": 2, "dtype": "F16"}


def made(model: Path, out: Path, text: Path, **choices: object) -> Path:
    """The artifact of `model`, calibrated on a few windows."""
    calibration = CalibrationPlan(source=(str(text),), samples=4, length=32)
    api.quantize(api.plan(model, calibration=calibration, target="cpu", **choices), out)
    return out


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path / "text.txt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", **SHAPE)


@pytest.fixture
def float_file(folder: Path, tmp_path: Path, text: Path) -> Path:
    return gguf_file(made(folder, tmp_path / "f16", text, type="F16"))


def tensor_bytes(path: Path) -> dict[str, bytes]:
    return {tensor.name: tensor.data.tobytes() for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("tied", [False, True])
def test_the_artifact_is_that_of_the_folder(family: str, tied: bool, tmp_path: Path, text: Path) -> None:
    if family == "gemma2" and not tied:
        pytest.skip("llama.cpp has no Gemma 2 with a head of its own")
    folder = write_checkpoint(tmp_path / "model", family, tied=tied, **SHAPE)
    source = gguf_file(made(folder, tmp_path / "f16", text, type="F16"))
    from_folder = gguf_file(made(folder, tmp_path / "a", text, type="Q4_K_M"))
    from_file = gguf_file(made(source, tmp_path / "b", text, type="Q4_K_M"))
    assert tensor_bytes(from_file) == tensor_bytes(from_folder)


def test_tokenizer_and_dimensions_are_carried_over_unchanged(float_file: Path, tmp_path: Path, text: Path) -> None:
    result = gguf_file(made(float_file, tmp_path / "out", text, type="Q6_K", method="rtn"))
    before, after = gguf.GGUFReader(float_file).fields, gguf.GGUFReader(result).fields
    raw = {key: b"".join(part.tobytes() for part in field.parts) for key, field in before.items()}
    changed = {key for key, field in after.items() if b"".join(p.tobytes() for p in field.parts) != raw.get(key)}
    assert changed <= {"general.file_type", "GGUF.kv_count", "bitwright.validation"}
    assert before.keys() == after.keys()
    assert "tokenizer.ggml.tokens" in after


def test_the_predicted_size_counts_the_vocabulary(float_file: Path, tmp_path: Path, text: Path) -> None:
    plan = api.plan(float_file, type="Q8_0", target="cpu")
    result = gguf_file(made(float_file, tmp_path / "out", text, type="Q8_0"))
    assert plan.file_bytes == pytest.approx(result.stat().st_size, abs=64)


@pytest.mark.filterwarnings("ignore:.*bfloat16.*")
def test_the_model_in_the_file_writes_its_own_text_and_is_judged(float_file: Path, tmp_path: Path) -> None:
    calibration = CalibrationPlan(samples=2, length=32)
    out = tmp_path / "out"
    api.quantize(api.plan(float_file, type="Q8_0", target="cpu", calibration=calibration), out)
    record = api.validate(out, float_file, windows=2, length=32)
    assert record.texts[0].kl_mean.value < 1e-3


def test_compressed_tensors_from_a_file_hold_config_and_tokenizer(float_file: Path, tmp_path: Path, text: Path) -> None:
    out = made(float_file, tmp_path / "w8", text, format="compressed-tensors", bits=8)
    judged = [text_file(tmp_path / "other.txt", step=6007)]
    record = api.validate(out, float_file, texts=judged, windows=2, length=32)
    assert record.texts[0].kl_mean.value < 1e-2
    assert (out / "tokenizer.json").exists()
    assert (out / "config.json").exists()


def test_another_file_with_the_same_header_is_told_apart(folder: Path, float_file: Path, tmp_path: Path) -> None:
    data = bytearray(float_file.read_bytes())
    data[-40_000:-20_000] = bytes(20_000)
    other = tmp_path / "other.gguf"
    other.write_bytes(data)
    assert open_original(other).facts.fingerprint != open_original(float_file).facts.fingerprint
    plan: Plan = api.plan(float_file, type="F16", target="cpu")
    with pytest.raises(MismatchError, match="is not the checkpoint"):
        api.quantize(plan, tmp_path / "out", model=other)


def test_a_quantized_file_is_refused(folder: Path, tmp_path: Path, text: Path) -> None:
    source = gguf_file(made(folder, tmp_path / "q8", text, type="Q8_0"))
    with pytest.raises(UnsupportedError, match="already quantized"):
        api.plan(source, type="Q4_K_M")


def test_the_files_own_folder_is_no_place_for_the_artifact(float_file: Path) -> None:
    plan = api.plan(float_file, type="F16", target="cpu")
    with pytest.raises((UsageError, MismatchError)):
        api.quantize(plan, float_file.parent)
