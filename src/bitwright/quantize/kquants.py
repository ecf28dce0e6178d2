"""Scales of the k-quants: a step (and a minimum) per sub-block of 16 or 32 inputs, as small integers under a factor.

A super-block of 256 inputs holds one float16 factor for its steps (and one for its minimums); each sub-block holds
integers of 4, 6 or 8 bits that multiply it. The search runs outside in:
  1. a real step and minimum for every sub-block, scored by Σ d_i · error²;
  2. the factors whose multiples come nearest to those, weighted;
  3. for every sub-block, the small integers near the real ones with the least error after rounding the codes;
  4. least-squares factors for those integers and codes, rounded to float16, then step 3 again; the better of the
     rounds is kept for each super-block.
llama.cpp stops after one round of 2 and 3 without the neighbours (ggml-quants.c, make_qkx3_quants, make_qp_quants).

Not here: error feedback on the codes (gptq.py), bytes (formats/ggml/blocks_256.py), codebooks (level_blocks.py).
Dimension key: O outputs · I inputs · N super-blocks per row · S sub-blocks per row
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.quantize import block_fits, block_kernels, kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import round_scale
from bitwright.quantize.lane_sums import turned, turned_back
from bitwright.quantize.superblocks import SUPER, factors, fitted_scales, keep
from bitwright.tensors.qtensor import Array, Float32

POLISH = 1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AffineType:
    """Codes 0 … `high` per `sub` inputs; scales and mins 0 … `most`. `shrinks` of the min-max step are tried."""

    sub: int
    high: int
    most: int
    shrinks: Float32
    reaches: tuple[int, ...] = (0, 1)  # neighbours of a rounded scale or min that each round tries


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignedType:
    """Codes `low` … `high` around zero per `sub` inputs, scales in `ends`.

    `shrinks` of the min-max step are tried, with both signs where `signs` is 2, and `reach` neighbours of a rounded
    scale.
    """

    sub: int
    low: int
    high: int
    ends: tuple[int, int]
    signs: int
    reach: int
    shrinks: Float32


def _around(high: int, reach: float, count: int) -> Float32:
    """Steps for which the range of a group spans `high` - `reach` to `high` + `reach` codes, as shares of min-max."""
    shrinks: Float32 = (high / np.linspace(high - reach, high + reach, count)).astype(np.float32)
    return shrinks


AFFINE_TYPES = {
    "Q2_K": AffineType(sub=16, high=3, most=15, shrinks=_around(3, 0.9, 9)),
    "Q4_K": AffineType(sub=32, high=15, most=63, shrinks=_around(15, 2.5, 13)),
    "Q5_K": AffineType(sub=32, high=31, most=63, shrinks=_around(31, 3.5, 13)),
}
SIGNED_TYPES = {
    "Q3_K": SignedType(
        sub=16, low=-4, high=3, ends=(-32, 31), signs=2, reach=1, shrinks=np.linspace(0.4, 1.1, 6, dtype=np.float32)
    ),
    "Q6_K": SignedType(
        sub=16, low=-32, high=31, ends=(-128, 127), signs=2, reach=1,
        shrinks=np.linspace(0.8, 1.1, 9, dtype=np.float32),
    ),
}  # fmt: skip


def affine_kquant(weight_OI: Float32, importance_I: Float32, kind: AffineType) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of a type with steps and minimums."""
    weight_IO, per_super = turned(weight_OI), SUPER // kind.sub
    shape = (weight_IO.shape[0] // kind.sub, weight_IO.shape[1])
    step_SO, low_SO = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    block_kernels.search_affine(
        weight_IO, importance_I, kind.sub, np.float32(kind.high), kind.shrinks, POLISH, step_SO, low_SO
    )
    mass_S = importance_I.reshape(-1, kind.sub).sum(axis=1)
    mass_SO = np.ascontiguousarray(np.broadcast_to(mass_S[:, None], shape))
    d_NO, dmin_NO = (factors(values_SO, mass_SO, per_super, (0, kind.most)) for values_SO in (step_SO, low_SO))
    best: dict[str, NDArray[Any]] = {
        "d": d_NO, "dmin": dmin_NO,
        "scales": np.zeros(shape, dtype=np.uint8), "mins": np.zeros(shape, dtype=np.uint8),
    }  # fmt: skip
    best_loss_NO = np.full(d_NO.shape, kernels.BIG)
    for reach in kind.reaches:
        scales_SO, mins_SO = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
        next_d_NO, next_dmin_NO, loss_NO = np.empty_like(d_NO), np.empty_like(d_NO), np.empty_like(d_NO)
        block_fits.fit_affine(
            weight_IO, importance_I, kind.sub, kind.high, kind.most, reach, step_SO, low_SO, d_NO, dmin_NO,
            scales_SO, mins_SO, next_d_NO, next_dmin_NO, loss_NO,
        )  # fmt: skip
        keep(best, best_loss_NO, loss_NO, {"d": d_NO, "dmin": dmin_NO, "scales": scales_SO, "mins": mins_SO})
        d_NO, dmin_NO = round_scale(next_d_NO, "f16"), round_scale(next_dmin_NO, "f16")
    found = {name: turned_back(values, len(weight_OI)) for name, values in best.items()}
    step = np.repeat(found["d"], per_super, axis=1) * found["scales"].astype(np.float32)
    offset = -(np.repeat(found["dmin"], per_super, axis=1) * found["mins"].astype(np.float32))
    grid = Grid(step_OG=step, zero_OG=np.zeros_like(step), offset_OG=offset, group_size=kind.sub, low=0, high=kind.high)
    fields: dict[str, Array] = {
        "d": found["d"].astype(np.float16), "dmin": found["dmin"].astype(np.float16),
        "scales": found["scales"], "mins": found["mins"],
    }  # fmt: skip
    return grid, fields


def signed_kquant(weight_OI: Float32, importance_I: Float32, kind: SignedType) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of a type with signed steps."""
    weight_IO = turned(weight_OI)
    shape = (weight_IO.shape[0] // kind.sub, weight_IO.shape[1])
    step_SO, curvature_SO = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    low, high = np.float32(kind.low), np.float32(kind.high)
    block_kernels.search_uniform(
        weight_IO, importance_I, kind.sub, low, high, kind.signs, kind.shrinks, step_SO, curvature_SO
    )

    def fit(d_NO: Float32, scales_SO: Array, next_d_NO: Float32, loss_NO: Float32) -> None:
        block_fits.fit_uniform(
            weight_IO, importance_I, kind.sub, low, high, kind.reach, kind.ends, step_SO, d_NO,
            scales_SO, next_d_NO, loss_NO,
        )  # fmt: skip

    d_NO, scales_SO = fitted_scales(step_SO, curvature_SO, SUPER // kind.sub, kind.ends, fit)
    d_ON, scales_OS = turned_back(d_NO, len(weight_OI)), turned_back(scales_SO, len(weight_OI))
    step = np.repeat(d_ON, SUPER // kind.sub, axis=1) * scales_OS.astype(np.float32)
    grid = Grid(
        step_OG=step, zero_OG=np.full_like(step, -low), offset_OG=np.zeros_like(step), group_size=kind.sub,
        low=0, high=kind.high - kind.low,
    )  # fmt: skip
    return grid, {"d": d_ON.astype(np.float16), "scales": scales_OS}
