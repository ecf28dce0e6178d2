"""Rows of a float checkpoint as float32 arrays, for a run that only rounds: without torch, and a few rows at a time.

Torch takes a second to import, a third of what rounding a small model takes in all. Values are those of
`CheckpointSource`, widened.

Not here: the source that forward passes read (checkpoint.py).
Dimension key: O outputs · I inputs
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError
from bitwright.core.plan import ModelFacts
from bitwright.facts.checkpoint import read_checkpoint
from bitwright.facts.model import facts_of
from bitwright.formats.folders.ranges import locate, read_bytes

WIDENED = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}  # stored types, as they are read


class FloatRows:
    """A checkpoint folder. Nothing is kept open, so threads may read side by side.

    Raises `InputError` when the folder is no sound checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        checkpoint = read_checkpoint(folder)
        self.facts: ModelFacts = facts_of(folder, checkpoint)
        self._folder = folder
        self._places = locate(folder, checkpoint.tensors)
        self._tensors = {tensor.name: tensor for tensor in self.facts.tensors}

    def load(self, name: str, first: int = 0, count: int | None = None) -> NDArray[np.float32]:
        """Rows of a tensor, [count, …], all by default. Raises `InputError` when it is absent, cut short or not
        finite."""
        if name not in self._tensors:
            raise InputError(f"`{self._folder}` has no tensor `{name}`")
        tensor = self._tensors[name]
        path, place = self._folder / tensor.file, self._places[tensor.stored_name]
        rows = place.shape[0] if place.shape else 1
        count = rows - first if count is None else count
        row_bytes = place.bytes // max(rows, 1)
        raw = read_bytes(path, place, first * row_bytes, count * row_bytes).view(WIDENED[place.dtype])
        values = _widened(raw, place.dtype).reshape(count if place.shape else 1, *place.shape[1:])
        if not np.isfinite(values.max(initial=0)) or not np.isfinite(values.min(initial=0)):
            lost = np.argwhere(~np.isfinite(values))
            where = [int(index) for index in lost[0]]
            where[0] += first
            among = f"{values.size} values" + ("" if count == rows else f" of its rows {first} to {first + count - 1}")
            raise InputError(
                f"`{name}` in `{path}` holds {len(lost)} of {among} that are NaN or infinite, the first at {where}",
                hint="the checkpoint is damaged, or its training diverged; it cannot be quantized",
            )
        return values.reshape(place.shape) if count == rows else values


def _widened(raw: NDArray[np.generic], dtype: str) -> NDArray[np.float32]:
    if dtype != "BF16":
        return raw.astype(np.float32, copy=False)
    bits = np.empty(raw.size, dtype=np.uint32)
    np.left_shift(raw, 16, out=bits, dtype=np.uint32)
    return bits.view(np.float32)
