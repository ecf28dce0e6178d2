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

from bitwright.quantize import block_kernels, kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import round_scale
from bitwright.quantize.superblocks import ROUNDS, SUPER, factors, fitted_scales, keep
from bitwright.tensors.qtensor import Array, Float32

POLISH = 2


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AffineType:
    """Codes 0 … `high` per `sub` inputs; scales and mins 0 … `most`. `shrinks` of the min-max step are tried."""

    sub: int
    high: int
    most: int
    shrinks: Float32


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
    "Q2_K": AffineType(sub=16, high=3, most=15, shrinks=_around(3, 0.9, 13)),
    "Q4_K": AffineType(sub=32, high=15, most=63, shrinks=_around(15, 2.5, 17)),
    "Q5_K": AffineType(sub=32, high=31, most=63, shrinks=_around(31, 3.5, 17)),
}
SIGNED_TYPES = {
    "Q3_K": SignedType(
        sub=16, low=-4, high=3, ends=(-32, 31), signs=2, reach=1, shrinks=np.linspace(0.4, 1.1, 12, dtype=np.float32)
    ),
    "Q6_K": SignedType(
        sub=16, low=-32, high=31, ends=(-128, 127), signs=2, reach=1,
        shrinks=np.linspace(0.8, 1.1, 11, dtype=np.float32),
    ),
}  # fmt: skip


def affine_kquant(weight_OI: Float32, importance_I: Float32, kind: AffineType) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of a type with steps and minimums."""
    shape, per_super = (weight_OI.shape[0], weight_OI.shape[1] // kind.sub), SUPER // kind.sub
    step_OS, low_OS = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    block_kernels.search_affine(
        weight_OI, importance_I, kind.sub, np.float32(kind.high), kind.shrinks, POLISH, step_OS, low_OS
    )
    mass_S = importance_I.reshape(-1, kind.sub).sum(axis=1)
    mass_OS = np.ascontiguousarray(np.broadcast_to(mass_S, shape))
    d_ON, dmin_ON = (factors(values_OS, mass_OS, per_super, (0, kind.most)) for values_OS in (step_OS, low_OS))
    best: dict[str, NDArray[Any]] = {
        "d": d_ON, "dmin": dmin_ON,
        "scales": np.zeros(shape, dtype=np.uint8), "mins": np.zeros(shape, dtype=np.uint8),
    }  # fmt: skip
    best_loss_ON = np.full(d_ON.shape, kernels.BIG)
    for _ in range(ROUNDS):
        scales_OS, mins_OS = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
        next_d_ON, next_dmin_ON, loss_ON = np.empty_like(d_ON), np.empty_like(d_ON), np.empty_like(d_ON)
        kernels.fit_affine(
            weight_OI, importance_I, kind.sub, kind.high, kind.most, step_OS, low_OS, d_ON, dmin_ON,
            scales_OS, mins_OS, next_d_ON, next_dmin_ON, loss_ON,
        )  # fmt: skip
        keep(best, best_loss_ON, loss_ON, {"d": d_ON, "dmin": dmin_ON, "scales": scales_OS, "mins": mins_OS})
        d_ON, dmin_ON = round_scale(next_d_ON, "f16"), round_scale(next_dmin_ON, "f16")
    step = np.repeat(best["d"], per_super, axis=1) * best["scales"].astype(np.float32)
    offset = -(np.repeat(best["dmin"], per_super, axis=1) * best["mins"].astype(np.float32))
    grid = Grid(step_OG=step, zero_OG=np.zeros_like(step), offset_OG=offset, group_size=kind.sub, low=0, high=kind.high)
    fields: dict[str, Array] = {
        "d": best["d"].astype(np.float16), "dmin": best["dmin"].astype(np.float16),
        "scales": best["scales"], "mins": best["mins"],
    }  # fmt: skip
    return grid, fields


def signed_kquant(weight_OI: Float32, importance_I: Float32, kind: SignedType) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of a type with signed steps."""
    shape = (weight_OI.shape[0], weight_OI.shape[1] // kind.sub)
    step_OS, curvature_OS = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    low, high = np.float32(kind.low), np.float32(kind.high)
    block_kernels.search_uniform(
        weight_OI, importance_I, kind.sub, low, high, kind.signs, kind.shrinks, step_OS, curvature_OS
    )

    def fit(d_ON: Float32, scales_OS: Array, next_d_ON: Float32, loss_ON: Float32) -> None:
        block_kernels.fit_uniform(
            weight_OI, importance_I, kind.sub, low, high, kind.reach, kind.ends, step_OS, d_ON,
            scales_OS, next_d_ON, loss_ON,
        )  # fmt: skip

    d_ON, scales_OS = fitted_scales(step_OS, curvature_OS, SUPER // kind.sub, kind.ends, fit)
    step = np.repeat(d_ON, SUPER // kind.sub, axis=1) * scales_OS.astype(np.float32)
    grid = Grid(
        step_OG=step, zero_OG=np.full_like(step, -low), offset_OG=np.zeros_like(step), group_size=kind.sub,
        low=0, high=kind.high - kind.low,
    )  # fmt: skip
    return grid, {"d": d_ON.astype(np.float16), "scales": scales_OS}
