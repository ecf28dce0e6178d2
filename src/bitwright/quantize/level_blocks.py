"""Scales of ggml's blocks whose codes point into fixed levels: IQ4_NL, IQ4_XS and MXFP4.

IQ4 holds 16 levels, finer around zero and reaching further below it than above, so steps of both signs are tried:
float16 per 32 inputs (NL), or 6-bit integers under one float16 per 256 (XS). MXFP4 holds E2M1
under powers of two; the exponents around the one that keeps the largest weight in range are tried.

Not here: error feedback on the codes (gptq.py), bytes (formats/), the levels (tensors/ggml_values.py).
Dimension key: O outputs · I inputs · N super-blocks per row · S blocks of 32 per row · K levels
"""

from __future__ import annotations

import numpy as np

from bitwright.quantize import block_kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import round_scale
from bitwright.quantize.lane_sums import turned, turned_back
from bitwright.quantize.superblocks import SignedType, real_steps, signed_steps
from bitwright.tensors.ggml_values import E2M1_DOUBLED, IQ4_LEVELS, e8m0_halves
from bitwright.tensors.qtensor import Array, Float32

BLOCK = 32
IQ4 = SignedType(
    sub=BLOCK, low=int(IQ4_LEVELS[0]), high=int(IQ4_LEVELS[-1]), iq4=True, ends=(-32, 31), signs=2, reach=1,
    shrinks=np.linspace(0.75, 1.2, 9, dtype=np.float32),
)  # fmt: skip
# Doubled E2M1 reaches 12 = 1.5 · 2^3: exponents of halved scales, counted from that of the largest weight
MX_FIRST, MX_TRIES = -4, 3
MX_BIAS = 128
MX_LEVELS, MX_FIRST_OF_LEVEL = np.unique(E2M1_DOUBLED, return_index=True)  # 15: zero has two codes, stored as 0
MX_TABLE = block_kernels.level_table(MX_LEVELS)


def iq4_nl(weight_OI: Float32, importance_I: Float32) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of IQ4_NL."""
    step_OS = round_scale(turned_back(real_steps(turned(weight_OI), importance_I, IQ4)[0], len(weight_OI)), "f16")
    return Grid.of_levels(step_OS, IQ4_LEVELS, group_size=BLOCK), {"d": step_OS.astype(np.float16)}


def iq4_xs(weight_OI: Float32, importance_I: Float32) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of IQ4_XS."""
    step_OS, fields = signed_steps(weight_OI, importance_I, IQ4)
    return Grid.of_levels(step_OS, IQ4_LEVELS, group_size=BLOCK), fields


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
