"""A float checkpoint read tensor by tensor, against the safetensors library, and damaged in several ways."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from bitwright.core.errors import InputError
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.folders.safetensors_file import check_finite
from checkpoints import random_weights, tensor_shapes, write_checkpoint, write_weights

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_every_tensor_is_what_safetensors_reads(tmp_path: Path, shards: int, dtype: str) -> None:
    folder = write_checkpoint(tmp_path / "model", shards=shards, dtype=dtype)
    source = CheckpointSource(folder)
    seen = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as reader:
            for name in reader.keys():  # noqa: SIM118
                ours, theirs = source.load(name), reader.get_tensor(name)
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours, theirs)
                seen.add(name)
    assert seen == set(source.names())
    assert source.facts.tensors[0].name in seen
    assert source.config == json.loads((folder / "config.json").read_text())


def test_a_tied_head_in_the_file_is_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tied=True)
    shapes = tensor_shapes(
        "llama", hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=320, tied=False
    )
    weights = random_weights(shapes, seed=0)
    write_weights(folder, {"lm_head.weight": weights.pop("lm_head.weight"), **weights})
    source = CheckpointSource(folder)
    assert "lm_head.weight" not in source.names()
    with safe_open(folder / "model.safetensors", framework="pt") as reader:
        assert torch.equal(source.load("model.norm.weight"), reader.get_tensor("model.norm.weight"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_and_counted(tmp_path: Path, bad: float) -> None:
    folder = write_checkpoint(tmp_path / "model")
    shapes = tensor_shapes(
        "llama", hidden=64, layers=2, heads=4, kv_heads=2, head_dim=16, intermediate=128, vocab=320, tied=False
    )
    weights = random_weights(shapes, seed=0)
    weights[NAME][3, 5:8] = bad
    write_weights(folder, weights)
    source = CheckpointSource(folder)
    source.load("model.norm.weight")
    with pytest.raises(InputError, match=r"up_proj.weight` in `.*model.safetensors` holds 3 of 8192 values") as caught:
        source.load(NAME)
    assert caught.value.hint


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    source = CheckpointSource(write_checkpoint(tmp_path / "model"))
    with pytest.raises(InputError, match=r"has no tensor `nothing\.weight`"):
        source.load("nothing.weight")


def test_a_file_cut_after_opening_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    source = CheckpointSource(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    last = source.facts.tensors[-1].name
    with pytest.raises(InputError, match=rf"truncated: `{last}` ends after"):
        source.load(last)
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        source.load(last)


def test_a_file_cut_before_opening_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(InputError, match="truncated"):
        CheckpointSource(folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("place", [0, 1, 4_321, -1])
def test_one_bad_value_is_found_anywhere(dtype: torch.dtype, place: int) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        tensor = torch.linspace(-3, 3, 70_001).to(dtype)
        check_finite(tensor, "w", Path("file"))
        tensor[place] = bad
        with pytest.raises(InputError, match="holds 1 of 70001 values"):
            check_finite(tensor, "w", Path("file"))
    check_finite(torch.empty(0, dtype=dtype), "w", Path("file"))
