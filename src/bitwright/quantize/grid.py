"""The grid that codes are chosen on, once scales are fixed.

Every scheme here, integer groups and ggml blocks alike, is uniform within a group of inputs: value = step · (code −
zero) + offset. Fixing the grid first and choosing codes afterwards is what lets one error-feedback loop (gptq.py) serve
all of them, and keeps every file plain (docs/log.md, 2026-11-21).

Dimension key: O outputs · I inputs · G groups along I
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from bitwright.quantize import kernels
from bitwright.tensors.qtensor import Float32


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Levels of one matrix: `step_OG · (code − zero_OG) + offset_OG`, codes in [low, high]."""

    step_OG: Float32
    zero_OG: Float32
    offset_OG: Float32
    group_size: int
    low: int
    high: int


def round_to_grid(weight_OI: Float32, grid: Grid) -> NDArray[np.int16]:
    """The nearest code for every weight, [O, I]."""
    codes_OI: NDArray[np.int16] = np.empty(weight_OI.shape, dtype=np.int16)
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


def grid_values(codes_OI: NDArray[np.int16], grid: Grid) -> Float32:
    """The value of every code, float32 [O, I]."""
    spread = [np.repeat(field, grid.group_size, axis=1) for field in (grid.step_OG, grid.zero_OG, grid.offset_OG)]
    values: Float32 = spread[0] * (codes_OI.astype(np.float32) - spread[1]) + spread[2]
    return values
