"""Random GGUF files: what another library reads is finite, of the shapes that were asked for, and repeatable."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from bitwright.formats.ggml.random_file import SCALE_OFFSETS, RandomShape, write_random

SHAPE = RandomShape(hidden=256, intermediate=512, blocks=2, heads=4, kv_heads=2, vocab=300)


@pytest.mark.parametrize("type", ["F16", *SCALE_OFFSETS])
def test_another_library_reads_finite_weights(tmp_path: Path, type: str) -> None:
    path = tmp_path / "random.gguf"
    write_random(path, SHAPE, type)
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name, (rows, columns) in SHAPE.matrices().items():
        stored = tensors[f"{name}.weight"]
        assert stored.tensor_type.name == type
        values = gguf.dequantize(stored.data, stored.tensor_type)
        assert values.shape == (rows, columns)
        assert np.isfinite(values).all()
        assert values.std() > 1e-6
    matrices = sum(int(t.n_elements) for name, t in tensors.items() if name.startswith("blk.") and len(t.shape) == 2)
    assert (matrices, SHAPE.head_weights) == (SHAPE.block_weights, 300 * 256)


def test_equal_arguments_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_random(tmp_path / name, SHAPE, "Q4_K")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
