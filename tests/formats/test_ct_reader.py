"""The reader: equal to our own decode, equal to transformers, and distrustful."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packed_models import SMALL, build_artifact
from safetensors.torch import load_file, save_file

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.schemes import IntScheme
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.tensors.qtensor import QTensor
from checkpoints import write_checkpoint

SCHEMES = [
    IntScheme(bits=bits, group_size=group, symmetric=symmetric)
    for bits in (4, 8)
    for group in (32, 64, 128, None)
    for symmetric in (True, False)
]
UP = "model.layers.0.mlp.up_proj"


def label(scheme: IntScheme) -> str:
    return scheme.label.replace(" ", "-")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", layers=1, **SMALL)


@pytest.mark.parametrize("scheme", SCHEMES, ids=label)
def test_the_library_decodes_what_we_decode(checkpoint: Path, tmp_path: Path, scheme: IntScheme) -> None:
    plan, values = build_artifact(checkpoint, tmp_path / "out", scheme)
    source = CompressedTensorsSource(tmp_path / "out")
    assert set(source.names()) == {entry.name for entry in plan.tensors}
    for entry in plan.tensors:
        value, loaded = values[entry.name], source.load(entry.name)
        if isinstance(value, QTensor):
            assert loaded.dtype == torch.float32
            np.testing.assert_array_equal(loaded.numpy(), value.decode())
        else:
            assert loaded.dtype == torch.bfloat16
            np.testing.assert_array_equal(loaded.float().numpy(), value)


@pytest.mark.parametrize("scale_dtype", ["f16", "f32"])
def test_other_types_of_scales(tmp_path: Path, scale_dtype: str) -> None:
    source = write_checkpoint(tmp_path / "model", layers=1, dtype=scale_dtype.upper(), **SMALL)
    scheme = IntScheme(bits=4, group_size=64, symmetric=False, scale_dtype=scale_dtype)
    _, values = build_artifact(source, tmp_path / "out", scheme)
    loaded = CompressedTensorsSource(tmp_path / "out").load(f"{UP}.weight")
    np.testing.assert_array_equal(loaded.numpy(), values[f"{UP}.weight"].decode())


def test_odd_row_counts_pack_their_zero_points(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "model", layers=1, **(SMALL | {"intermediate": 131, "hidden": 128}))
    _, values = build_artifact(source, tmp_path / "out", IntScheme(bits=4, group_size=None, symmetric=False))
    artifact = CompressedTensorsSource(tmp_path / "out")
    for name in (f"{UP}.weight", "model.layers.0.mlp.down_proj.weight"):
        np.testing.assert_array_equal(artifact.load(name).numpy(), values[name].decode())


def test_facts_are_those_of_the_source_but_for_size(checkpoint: Path, tmp_path: Path) -> None:
    plan, _ = build_artifact(checkpoint, tmp_path / "out", SCHEMES[0], max_shard_bytes=50_000)
    artifact, original = CompressedTensorsSource(tmp_path / "out"), CheckpointSource(checkpoint)
    assert artifact.config == original.config
    assert artifact.facts.bytes == plan.file_bytes
    for key in ("layers", "hidden", "heads", "kv_heads", "vocab", "parameters", "architecture", "dtype"):
        assert getattr(artifact.facts, key) == getattr(original.facts, key), key
    shapes = {tensor.name: tensor.shape for tensor in original.facts.tensors}
    assert {tensor.name: tensor.shape for tensor in artifact.facts.tensors} == shapes


def test_mixed_schemes_are_told_apart(checkpoint: Path, tmp_path: Path) -> None:
    head = IntScheme(bits=8, group_size=128)
    _, values = build_artifact(checkpoint, tmp_path / "out", SCHEMES[0], head=head)
    artifact = CompressedTensorsSource(tmp_path / "out")
    for name in ("lm_head.weight", f"{UP}.weight"):
        np.testing.assert_array_equal(artifact.load(name).numpy(), values[name].decode())


@pytest.mark.parametrize("name", [f"{UP}.weight_scale", "nothing.weight"])
def test_only_weights_have_names(checkpoint: Path, tmp_path: Path, name: str) -> None:
    build_artifact(checkpoint, tmp_path / "out", SCHEMES[0])
    with pytest.raises(InputError, match="has no tensor"):
        CompressedTensorsSource(tmp_path / "out").load(name)


Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], None]


def without_scale(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    del tensors[f"{UP}.weight_scale"]


def short_scale(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors[f"{UP}.weight_scale"] = tensors[f"{UP}.weight_scale"][:, :1].contiguous()


def short_words(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors[f"{UP}.weight_packed"] = tensors[f"{UP}.weight_packed"][:, :-1].contiguous()


def lying_shape(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors[f"{UP}.weight_shape"] = torch.tensor([1 << 40, 128])


def scalar_shape(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors[f"{UP}.weight_shape"] = torch.tensor(7)


def nan_scale(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    tensors[f"{UP}.weight_scale"][3, 1] = float("nan")


def says_asymmetric(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["symmetric"] = False


def says_eight_bits(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["num_bits"] = 8


def ignores_a_packed_module(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["quantization_config"]["ignore"].append(UP)


def refused_by_the_library(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    config["quantization_config"]["config_groups"]["group_0"]["weights"]["actorder"] = "group"


def no_settings(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    del config["quantization_config"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_scale, rf"lacks `{UP}.weight_scale`"),
        (short_scale, r"up_proj.weight_scale` is BF16 \[256, 1\], expected BF16 or F16 or F32 \[256, 4\]"),
        (short_words, r"up_proj.weight_packed` is I32 \[256, 15\], expected I32 \[256, 16\]"),
        (lying_shape, r"has shape \[1099511627776, 128\], config.json implies \[256, 128\]"),
        (scalar_shape, r"weight_shape` is I64 \[\], expected I64 \[2\]"),
        (nan_scale, r"up_proj.weight_scale` in .* holds 1 of 1024 values that are NaN"),
        (says_asymmetric, "weight_zero_point`"),
        (says_eight_bits, r"expected I32 \[\d+, \d+\]"),
        (ignores_a_packed_module, "is not quantized"),
        (refused_by_the_library, "refuses its quantization_config"),
        (no_settings, "describes no compressed-tensors artifact"),
    ],
)
def test_damage_is_named(checkpoint: Path, tmp_path: Path, change: Change, message: str) -> None:
    folder = tmp_path / "out"
    build_artifact(checkpoint, folder, SCHEMES[0])
    tensors, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    change(tensors, config)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=message):
        CompressedTensorsSource(folder).load(f"{UP}.weight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "marlin-24"}, "stored as marlin-24, expected one of pack-quantized"),
        ({"format": "float-quantized"}, "4-bit int weights per group, which is not read here"),
        ({"weights": {"num_bits": 4, "type": "int", "strategy": "tensor"}}, "per tensor, which is not read"),
        ({"format": "nvfp4-pack-quantized"}, "nvfp4-pack-quantized with 4-bit int"),
    ],
)
def test_other_formats_are_unsupported(checkpoint: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder = tmp_path / "out"
    build_artifact(checkpoint, folder, SCHEMES[0])
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["config_groups"]["group_0"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match=message):
        CompressedTensorsSource(folder)


def logits_by_transformers(folder: Path, tokens: torch.Tensor, *, dequantize: bool) -> torch.Tensor:
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    settings = {"quantization_config": CompressedTensorsConfig(dequantize=True)} if dequantize else {}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **settings).eval()
    with torch.no_grad():
        return model(tokens).logits


def logits_of_decoded(source: CompressedTensorsSource, tokens: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(LlamaConfig(**(source.config | {"dtype": "float32"}))).eval()
    model.load_state_dict(
        {name: source.load(name).to(dtype).float() for name in source.names()}, strict=not source.facts.tied
    )
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=label)
def test_transformers_computes_the_same_logits(tmp_path: Path, scheme: IntScheme, tied: bool) -> None:
    source = write_checkpoint(tmp_path / "model", tied=tied, **SMALL)
    folder = tmp_path / "out"
    build_artifact(source, folder, scheme, max_shard_bytes=150_000)
    shutil.rmtree(source)
    tokens = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(0))
    # With packed zero points transformers 5.23 + compressed-tensors 0.20 load only by `dequantize=True` (the library
    # sizes them unpacked on the meta device), and there weights are rounded to the type of the scales.
    seen = torch.float32 if scheme.symmetric else torch.bfloat16
    theirs = logits_by_transformers(folder, tokens, dequantize=not scheme.symmetric)
    ours = logits_of_decoded(CompressedTensorsSource(folder), tokens, seen)
    assert theirs.std() > 0.1
    assert float((theirs - ours).norm() / ours.norm()) < 1e-3
