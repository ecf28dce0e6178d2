"""Rows without torch: the values of the checkpoint source, whole or in part, and the same refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bitwright.core.errors import InputError
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.float_rows import FloatRows
from checkpoints import write_checkpoint

NAME = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rows_are_those_of_the_checkpoint(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = write_checkpoint(tmp_path / "model")
    path = folder / "model.safetensors"
    save_file({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)
    rows, whole = FloatRows(folder), CheckpointSource(folder)
    for name in whole.names():
        assert np.array_equal(rows.load(name), whole.load(name).float().numpy()), name
    assert np.array_equal(rows.load(NAME, 3, 5), whole.load(NAME)[3:8].float().numpy())


def test_a_value_that_is_not_finite_is_refused_where_it_lies(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[NAME][4, 1] = float("nan")
    save_file(tensors, path)
    rows = FloatRows(folder)
    assert np.isfinite(rows.load(NAME, 0, 4)).all()
    with pytest.raises(InputError, match="rows 4 to 5"):
        rows.load(NAME, 4, 2)
    with pytest.raises(InputError, match="no tensor"):
        rows.load("model.nothing")
