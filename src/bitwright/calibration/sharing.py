"""Which values share a scale: a whole tensor, a channel, a group of neighbours, or a block of 128 × 128.

Activations [N, I] have tokens as rows: they come in batches, and what shares a scale is told apart by column. Weights
[O, I] come whole: an output channel is a row, a group lies within a row.

    kind      activations             weights
    tensor    one                     one
    channel   per column              per row
    group     per `size` columns      per row and `size` columns
    block                             per `size` rows and `size` columns; the last ones may be smaller

Dimension key: N rows (tokens) · O outputs · I inputs · S slots, one per scale · V values of a slot
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import UsageError

Kind = Literal["tensor", "channel", "group", "block"]
Part = tuple[NDArray[np.int64], NDArray[np.float32]]  # slots [S'], their values [S', V]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """What shares a scale. `of` says what rows are."""

    kind: Kind = "tensor"
    of: Literal["activations", "weights"] = "activations"
    size: int = 128

    def shape(self, rows: int, columns: int) -> tuple[int, ...]:
        """How scales of a [rows, columns] array lie. Raises `UsageError` where the size does not divide."""
        weights = self.of == "weights"
        match self.kind:
            case "tensor":
                return (1,)
            case "channel":
                return (rows,) if weights else (columns,)
            case "group":
                if columns % self.size:
                    raise UsageError(
                        f"groups of {self.size} do not divide {columns} inputs", hint="choose a size that divides them"
                    )
                return (rows, columns // self.size) if weights else (columns // self.size,)
            case "block":
                if not weights:
                    raise UsageError(
                        "activations have no blocks: their rows are tokens, which come and go",
                        hint="use group, channel or tensor",
                    )
                return (-(-rows // self.size), -(-columns // self.size))

    def parts(self, values: NDArray[np.float32]) -> Iterator[Part]:
        """The slots of a 2-D array with their values; several parts only where blocks at the edges are smaller."""
        rows, columns = values.shape
        shape = self.shape(rows, columns)
        slots = np.arange(int(np.prod(shape)))
        if self.kind == "block":
            yield from self._blocks(values, slots.reshape(shape))
        elif self.kind == "tensor":
            yield slots, values.reshape(1, -1)
        elif self.of == "weights":
            yield slots, values.reshape(len(slots), -1)
        else:
            columns_IN = np.ascontiguousarray(values.T)
            yield slots, columns_IN.reshape(len(slots), -1)

    def _blocks(self, values: NDArray[np.float32], slots: NDArray[np.int64]) -> Iterator[Part]:
        cuts = [[0, count - count % self.size, count] for count in values.shape]
        for top, bottom in zip(cuts[0], cuts[0][1:], strict=False):
            for left, right in zip(cuts[1], cuts[1][1:], strict=False):
                part = values[top:bottom, left:right]
                if not part.size:
                    continue
                high, wide = min(self.size, bottom - top), min(self.size, right - left)
                tiles = part.reshape(part.shape[0] // high, high, part.shape[1] // wide, wide).swapaxes(1, 2)
                at = slots[top // self.size :, left // self.size :][: tiles.shape[0], : tiles.shape[1]]
                yield at.reshape(-1), np.ascontiguousarray(tiles).reshape(at.size, -1)
