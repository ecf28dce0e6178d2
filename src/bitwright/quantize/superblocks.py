"""Small integers under one float16 factor per super-block of 256 inputs: what the searches of these types share.

The search runs outside in: a real step for every sub-block (block_kernels.py); the factor whose multiples come nearest
to these; for every sub-block the integer near its real step with the least error after rounding the codes; the factor
that least squares asks for with these integers and codes. A second round of integers lowers the error by under 0.01 %.

Matrices are turned, as the loops want them (lane_sums.py).
Not here: types with minimums (kquants.py), which types there are (kquants.py, level_blocks.py).
Dimension key: O outputs · I inputs · N super-blocks per row · S sub-blocks per row
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bitwright.quantize import block_fits, block_kernels
from bitwright.quantize.integer import round_scale
from bitwright.quantize.lane_sums import turned, turned_back
from bitwright.tensors.qtensor import Array, Float32

SUPER = 256
FACTOR_SHRINKS = np.linspace(0.8, 1.25, 9, dtype=np.float32)  # of the factor that the largest step asks for


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SignedType:
    """Codes `low` … `high` around zero per `sub` inputs, scales in `ends`; with `iq4` the levels between instead.

    `shrinks` of the step that maps the largest weight to `low` are tried, with both signs where `signs` is 2, and
    `reach` neighbours of a rounded scale.
    """

    sub: int
    low: int
    high: int
    ends: tuple[int, int]
    signs: int
    reach: int
    shrinks: Float32
    iq4: bool = False


def factors(value_SO: Float32, weight_SO: Float32, per_super: int, ends: tuple[int, int]) -> Float32:
    """One factor per super-block, [N, O], whose multiples by integers in `ends` come nearest to the values."""
    factor_NO = np.empty((value_SO.shape[0] // per_super, value_SO.shape[1]), dtype=np.float32)
    block_fits.choose_factors(
        value_SO, weight_SO, per_super, np.float32(ends[0]), np.float32(ends[1]), FACTOR_SHRINKS, factor_NO
    )
    return round_scale(factor_NO, "f16")


def real_steps(weight_IO: Float32, importance_I: Float32, kind: SignedType) -> tuple[Float32, Float32]:
    """Steps of either sign, and how fast the loss rises around them, [S, O] each."""
    shape = (weight_IO.shape[0] // kind.sub, weight_IO.shape[1])
    step_SO, curvature_SO = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    block_kernels.search_signed(
        weight_IO, importance_I, kind.sub, np.float32(kind.low), np.float32(kind.high), kind.iq4, kind.signs,
        kind.shrinks, step_SO, curvature_SO,
    )  # fmt: skip
    return step_SO, curvature_SO


def signed_steps(weight_OI: Float32, importance_I: Float32, kind: SignedType) -> tuple[Float32, dict[str, Array]]:
    """The step of every sub-block as it will be decoded, [O, S], and the fields that hold it."""
    weight_IO, per_super = turned(weight_OI), SUPER // kind.sub
    step_SO, curvature_SO = real_steps(weight_IO, importance_I, kind)
    d_NO = factors(step_SO, curvature_SO, per_super, kind.ends)
    scales_SO, fitted_NO = np.empty(step_SO.shape, dtype=np.int8), np.empty_like(d_NO)
    block_fits.fit_signed(
        weight_IO, importance_I, kind.sub, np.float32(kind.low), np.float32(kind.high), kind.iq4, kind.reach,
        kind.ends, step_SO, d_NO, scales_SO, fitted_NO,
    )  # fmt: skip
    d_ON = turned_back(round_scale(fitted_NO, "f16"), len(weight_OI))
    scales_OS = turned_back(scales_SO, len(weight_OI))
    step_OS = np.repeat(d_ON, per_super, axis=1) * scales_OS.astype(np.float32)
    return step_OS, {"d": d_ON.astype(np.float16), "scales": scales_OS}
