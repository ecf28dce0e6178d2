"""What lies at a path, and one line for everything that is nothing known."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import pytest
from packed_models import SMALL, build_artifact

from bitwright.core.errors import BitwrightError, InputError, UnsupportedError
from bitwright.core.schemes import IntScheme
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.formats.sniff import gguf_file, open_source, sniff
from checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", layers=1, **SMALL)


def write_gguf(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_a_checkpoint(checkpoint: Path) -> None:
    assert sniff(checkpoint) == "checkpoint"
    assert isinstance(open_source(checkpoint), CheckpointSource)


def test_a_compressed_tensors_folder(checkpoint: Path, tmp_path: Path) -> None:
    build_artifact(checkpoint, tmp_path / "out", IntScheme(bits=4, group_size=128))
    assert sniff(tmp_path / "out") == "compressed-tensors"
    assert isinstance(open_source(tmp_path / "out"), CompressedTensorsSource)


def test_a_gguf_file_and_a_folder_with_one(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf")
    (tmp_path / "plan.json").write_text("{}")
    assert sniff(path) == sniff(tmp_path) == "gguf"
    assert gguf_file(path) == gguf_file(tmp_path) == path


def test_several_gguf_files_are_ambiguous(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf")
    with pytest.raises(InputError, match=r"holds 2 GGUF files \(a.gguf, b.gguf\)"):
        sniff(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.gguf", b"<html>", "is no GGUF file: it starts with b'<htm'"),
        ("model.gguf", b"", "is no GGUF file: it starts with b''"),
        ("model.safetensors", bytes(8), "is one file of a checkpoint"),
        ("model.bin", b"PK\x03\x04", "of no kind that is known"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        sniff(tmp_path / name)
    assert caught.value.hint


def test_missing_empty_and_pickled_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        sniff(tmp_path / "nothing")
    with pytest.raises(InputError, match="is an empty folder"):
        sniff(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=r"has no config.json and no .gguf file"):
        sniff(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(InputError, match="never loaded"):
        sniff(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(InputError, match="never loaded"):
        open_source(tmp_path)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "modelopt"])
def test_quantized_folders_by_their_method(checkpoint: Path, tmp_path: Path, method: str) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert sniff(tmp_path) == method


@pytest.mark.parametrize("method", ["quark", "hqq", ["gptq"]])
def test_other_quantized_folders_are_named(checkpoint: Path, tmp_path: Path, method: object) -> None:
    config = json.loads((checkpoint / "config.json").read_text()) | {"quantization_config": {"quant_method": method}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="describes a model quantized with"):
        sniff(tmp_path)


def test_settings_beside_the_config_count_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "quant_config.json").write_text("{}")
    with pytest.raises(UnsupportedError, match="quantized with `awq`"):
        sniff(tmp_path)
    (tmp_path / "hf_quant_config.json").write_text("{}")
    (tmp_path / "quantize_config.json").write_text('{"bits": 4}')
    assert sniff(tmp_path) == "gptq"


def test_broken_config_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BitwrightError, match=r"config.json"):
        sniff(tmp_path)
