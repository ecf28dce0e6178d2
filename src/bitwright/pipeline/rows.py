"""A tensor some rows at a time, from memory or from the checkpoint.

Embedding and head of a large vocabulary are larger than a decoder block; taken in parts they cost what a part costs.

Not here: what is done with the rows (workshop.py).
Dimension key: O outputs · I inputs · W windows · T tokens · U used rows · H hidden
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Protocol

import torch

from bitwright.core.plan import TensorPlan
from bitwright.core.protocols import ReadsRows, WeightSource
from bitwright.quantize.solve import SLAB
from bitwright.tensors.qtensor import Float32

PART_WEIGHTS = 1 << 25  # weights at a time: 128 MiB in float32


class Rows(Protocol):
    """A tensor that is read some rows at a time."""

    def read(self, start: int, stop: int) -> Float32:
        """Rows `start` to `stop` in float32. The caller may overwrite them."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class HeldRows:
    """Rows of an array, not copied: what is written to them is written to the array."""

    values: Float32

    def read(self, start: int, stop: int) -> Float32:
        return self.values[start:stop]


class StoredRows:
    """Rows of a tensor of the source, with its columns multiplied by `scales_I` if given."""

    def __init__(self, source: WeightSource, name: str, scales_I: Float32 | None = None) -> None:
        self._source, self._name, self._scales_I = source, name, scales_I
        self._whole: torch.Tensor | None = None  # where the source cannot read rows

    def read(self, start: int, stop: int) -> Float32:
        if isinstance(self._source, ReadsRows):
            part = self._source.load_rows(self._name, start, stop)
        else:
            if self._whole is None:
                self._whole = self._source.load(self._name)
            part = self._whole[start:stop]
        values: Float32 = part.to(torch.float32, copy=self._whole is not None).numpy()
        if self._scales_I is not None:
            values *= self._scales_I
        return values


class UsedRows:
    """The rows of an embedding that some tokens use, gathered as the table passes by."""

    def __init__(self, tokens: torch.Tensor, width: int) -> None:
        """`tokens` int64 [W, T]."""
        self._ids_U, places = torch.unique(tokens, return_inverse=True)
        self.places: torch.Tensor = places  # the row of `table_UH` for each token
        self.table_UH = torch.empty(len(self._ids_U), width)

    def see(self, start: int, values: Float32) -> None:
        """Take what is used of the rows from `start` on."""
        bounds = torch.searchsorted(self._ids_U, torch.tensor([start, start + len(values)]))
        first, last = int(bounds[0]), int(bounds[1])
        self.table_UH[first:last] = torch.from_numpy(values)[self._ids_U[first:last] - start]


def parts(shape: tuple[int, ...], *, whole: bool = False) -> Iterator[tuple[int, int]]:
    """First and last row of each part of a tensor: as many as make `PART_WEIGHTS`, a multiple of the solver's slabs."""
    step = shape[0] if whole else part_rows(shape)
    for start in range(0, shape[0], step):
        yield start, min(start + step, shape[0])


def part_rows(shape: tuple[int, ...]) -> int:
    """Rows of one part."""
    return max(1, PART_WEIGHTS // (math.prod(shape[1:]) * SLAB)) * SLAB


def stored_parts(source: WeightSource, entry: TensorPlan) -> Iterator[Float32]:
    """A tensor of the source, part by part."""
    rows = StoredRows(source, entry.name)
    return (rows.read(*part) for part in parts(entry.shape))
