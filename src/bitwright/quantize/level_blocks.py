"""Scales of ggml's blocks whose codes point into fixed levels: IQ4_NL, IQ4_XS and MXFP4.

IQ4 holds 16 levels, finer around zero and reaching further below it than above, so steps of both signs are tried:
float16 per 32 inputs (NL), or 6-bit integers under one float16 per 256 (XS, fitted as in kquants.py). MXFP4 holds E2M1
under powers of two; the exponents around the one that keeps the largest weight in range are tried.

Not here: error feedback on the codes (gptq.py), bytes (formats/), the levels (tensors/ggml_values.py).
Dimension key: O outputs · I inputs · N super-blocks per row · S blocks of 32 per row · K levels
"""

from __future__ import annotations

import numpy as np

from bitwright.quantize import block_fits, block_kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import round_scale
from bitwright.quantize.lane_sums import turned, turned_back
from bitwright.quantize.superblocks import SUPER, fitted_scales
from bitwright.tensors.ggml_values import E2M1_DOUBLED, IQ4_LEVELS, e8m0_halves
from bitwright.tensors.qtensor import Array, Float32

BLOCK = 32
IQ4_SHRINKS = np.linspace(0.75, 1.2, 9, dtype=np.float32)  # of the step that maps the largest weight to -127
IQ4_ENDS, IQ4_REACH = (-32, 31), 1
# Doubled E2M1 reaches 12 = 1.5 · 2^3: exponents of halved scales, counted from that of the largest weight
MX_FIRST, MX_TRIES = -4, 3
MX_BIAS = 128
MX_LEVELS, MX_FIRST_OF_LEVEL = np.unique(E2M1_DOUBLED, return_index=True)  # 15: zero has two codes, stored as 0
MX_TABLE = block_kernels.level_table(MX_LEVELS)


def iq4_nl(weight_OI: Float32, importance_I: Float32) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of IQ4_NL."""
    step_OS = round_scale(turned_back(_iq4_steps(turned(weight_OI), importance_I)[0], len(weight_OI)), "f16")
    return Grid.of_levels(step_OS, IQ4_LEVELS, group_size=BLOCK), {"d": step_OS.astype(np.float16)}


def iq4_xs(weight_OI: Float32, importance_I: Float32) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of IQ4_XS."""
    weight_IO = turned(weight_OI)
    step_SO, curvature_SO = _iq4_steps(weight_IO, importance_I)

    def fit(d_NO: Float32, scales_SO: Array, next_d_NO: Float32, loss_NO: Float32) -> None:
        block_fits.fit_iq4(
            weight_IO, importance_I, BLOCK, IQ4_REACH, IQ4_ENDS, step_SO, d_NO,
            scales_SO, next_d_NO, loss_NO,
        )  # fmt: skip

    d_NO, scales_SO = fitted_scales(step_SO, curvature_SO, SUPER // BLOCK, IQ4_ENDS, fit)
    d_ON, scales_OS = turned_back(d_NO, len(weight_OI)), turned_back(scales_SO, len(weight_OI))
    step = np.repeat(d_ON, SUPER // BLOCK, axis=1) * scales_OS.astype(np.float32)
    grid = Grid.of_levels(step, IQ4_LEVELS, group_size=BLOCK)
    return grid, {"d": d_ON.astype(np.float16), "scales": scales_OS}


def mxfp4(weight_OI: Float32, importance_I: Float32) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of MXFP4."""
    exponent_OS = np.empty((weight_OI.shape[0], weight_OI.shape[1] // BLOCK), dtype=np.int16)
    block_kernels.search_powers(
        weight_OI,
        importance_I,
        BLOCK,
        MX_TABLE,
        MX_FIRST,
        MX_TRIES,
        exponent_OS,
    )
    stored_OS = np.clip(exponent_OS + MX_BIAS, 0, 254).astype(np.uint8)
    grid = Grid.of_levels(
        e8m0_halves(stored_OS), MX_LEVELS, group_size=BLOCK, stored_K=MX_FIRST_OF_LEVEL.astype(np.uint8)
    )
    return grid, {"e": stored_OS}


def _iq4_steps(weight_IO: Float32, importance_I: Float32) -> tuple[Float32, Float32]:
    """Real steps of either sign, and how fast the loss rises around them, [S, O] each."""
    shape = (weight_IO.shape[0] // BLOCK, weight_IO.shape[1])
    step_SO, curvature_SO = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    block_kernels.search_iq4(weight_IO, importance_I, BLOCK, IQ4_SHRINKS, step_SO, curvature_SO)
    return step_SO, curvature_SO
