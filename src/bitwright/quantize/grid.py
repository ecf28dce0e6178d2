"""The grid that codes are chosen on, once scales are fixed.

Integer groups and most ggml blocks are uniform within a group of inputs: value = step · (code − zero) + offset.
Codebooks and floats of few bits have `levels` instead: value = step · levels[code]. Fixing the grid first and choosing
codes afterwards is what lets one error-feedback loop (gptq.py) serve all of them, and keeps every file plain
(docs/log.md, 2026-11-21).

Dimension key: O outputs · I inputs · G groups along I · K levels
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.quantize import kernels, level_kernels
from bitwright.tensors.qtensor import Float32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Levels of one matrix: `step_OG · (code − zero_OG) + offset_OG`, codes in [low, high].

    With `levels_K` (ascending) a code is an index into them, the value is `step_OG · levels_K[code]`, and `zero_OG` and
    `offset_OG` are zero. `stored_K` is what the file holds for each level, where that is not the index.
    """

    step_OG: Float32
    zero_OG: Float32
    offset_OG: Float32
    group_size: int
    low: int
    high: int
    levels_K: Float32 | None = None
    stored_K: NDArray[np.uint8] | None = None

    @staticmethod
    def of_levels(
        step_OG: Float32, levels_K: Float32, *, group_size: int, stored_K: NDArray[np.uint8] | None = None
    ) -> Grid:
        """A grid of ascending levels under one step per group."""
        assert bool(np.all(np.diff(levels_K) > 0)), "levels must ascend"
        zeros = np.zeros_like(step_OG)
        return Grid(
            step_OG=step_OG, zero_OG=zeros, offset_OG=zeros, group_size=group_size, low=0, high=len(levels_K) - 1,
            levels_K=levels_K, stored_K=stored_K,
        )  # fmt: skip

    def stored_codes(self, codes_OI: NDArray[Any]) -> NDArray[Any]:
        """What the file holds for the codes of this grid."""
        return codes_OI if self.stored_K is None else self.stored_K[codes_OI]


def round_to_grid(weight_OI: Float32, grid: Grid, dtype: type[np.generic] = np.int16) -> NDArray[Any]:
    """The nearest code for every weight, [O, I]."""
    codes_OI: NDArray[Any] = np.empty(weight_OI.shape, dtype=dtype)
    if grid.levels_K is not None:
        level_kernels.round_nearest(
            weight_OI, grid.step_OG, grid.group_size, level_kernels.midpoints(grid.levels_K), codes_OI
        )
        return codes_OI
    kernels.round_nearest(
        weight_OI,
        grid.step_OG,
        grid.zero_OG,
        grid.offset_OG,
        grid.group_size,
        np.float32(grid.low),
        np.float32(grid.high),
        codes_OI,
    )
    return codes_OI


def squared_errors(weight_OI: Float32, codes_OI: NDArray[Any], grid: Grid) -> tuple[float, float]:
    """Squared sums of the errors and of the weights."""
    if grid.levels_K is None:
        error, size = kernels.measure(weight_OI, codes_OI, grid.step_OG, grid.zero_OG, grid.offset_OG, grid.group_size)
        return float(error), float(size)
    error_OI = weight_OI - grid_values(codes_OI, grid)
    return float(np.vdot(error_OI, error_OI)), float(np.vdot(weight_OI, weight_OI))


def grid_values(codes_OI: NDArray[Any], grid: Grid) -> Float32:
    """The value of every code, float32 [O, I]."""
    if grid.levels_K is not None:
        of_levels: Float32 = np.repeat(grid.step_OG, grid.group_size, axis=1) * grid.levels_K[codes_OI]
        return of_levels
    spread = [np.repeat(field, grid.group_size, axis=1) for field in (grid.step_OG, grid.zero_OG, grid.offset_OG)]
    values: Float32 = spread[0] * (codes_OI.astype(np.float32) - spread[1]) + spread[2]
    return values
