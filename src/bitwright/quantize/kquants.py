"""Scales of the k-quants: a step (and a minimum) per sub-block of 16 or 32 inputs, as small integers under a factor.

A super-block of 256 inputs holds one float16 factor for its steps (and one for its minimums); each sub-block holds
integers of 4, 6 or 8 bits that multiply it. The search runs outside in:
  1. a real step and minimum for every sub-block, scored by Σ d_i · error²;
  2. the factors whose multiples come nearest to those, weighted;
  3. for every sub-block, the small integers near the real ones with the least error after rounding the codes;
  4. least-squares factors for those integers and codes, rounded to float16.
Types with minimums do 3 and 4 twice, first without the neighbours. llama.cpp does 2 and 3 once and without them
(ggml-quants.c, make_qkx3_quants, make_qp_quants).

Not here: types without minimums, but for their rows in a table (superblocks.py), error feedback on the codes (gptq.py),
bytes (formats/ggml/blocks_256.py), codebooks (level_blocks.py).
Dimension key: O outputs · I inputs · N super-blocks per row · S sub-blocks per row
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bitwright.quantize import block_fits, block_kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import round_scale
from bitwright.quantize.lane_sums import turned, turned_back
from bitwright.quantize.superblocks import SUPER, SignedType, factors, signed_steps
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
        sub=16, low=-4, high=3, ends=(-32, 31), signs=2, reach=1, shrinks=np.linspace(0.35, 1.1, 4, dtype=np.float32)
    ),
    "Q6_K": SignedType(
        sub=16, low=-32, high=31, ends=(-128, 127), signs=2, reach=1,
        shrinks=np.linspace(0.9, 1.3, 5, dtype=np.float32),
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
    for reach in kind.reaches:
        scales_SO, mins_SO = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
        next_d_NO, next_dmin_NO = np.empty_like(d_NO), np.empty_like(d_NO)
        block_fits.fit_affine(
            weight_IO, importance_I, kind.sub, kind.high, kind.most, reach, step_SO, low_SO, d_NO, dmin_NO,
            scales_SO, mins_SO, next_d_NO, next_dmin_NO,
        )  # fmt: skip
        d_NO, dmin_NO = round_scale(next_d_NO, "f16"), round_scale(next_dmin_NO, "f16")
    stored = {"d": d_NO, "dmin": dmin_NO, "scales": scales_SO, "mins": mins_SO}
    found = {name: turned_back(values, len(weight_OI)) for name, values in stored.items()}
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
    step, fields = signed_steps(weight_OI, importance_I, kind)
    grid = Grid(
        step_OG=step, zero_OG=np.full_like(step, -kind.low), offset_OG=np.zeros_like(step), group_size=kind.sub,
        low=0, high=kind.high - kind.low,
    )  # fmt: skip
    return grid, fields
