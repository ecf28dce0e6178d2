"""Values of ggml blocks, in llama.cpp's order of operations, so that they are equal bit for bit.

The formulas stand in qtensor.py. Sources: llama.cpp ggml-quants.c, dequantize_row_*; ggml-common.h, kvalues_iq4nl and
kvalues_mxfp4; ggml-impl.h, ggml_e8m0_to_fp32_half.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bitwright.tensors.arrays import Array, Float32, spread

ZERO = {"Q3_K": 4, "Q4_0": 8, "Q5_0": 16, "Q6_K": 32, "Q8_0": 0}
IQ4_LEVELS: Float32 = np.array(
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32
)
# By code: sign bit, then E2M1. Doubled so that all are whole; `e8m0_halves` halves the scale in return.
E2M1_DOUBLED: Float32 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], dtype=np.float32)


def ggml_values(kind: str, codes_OI: Array, fields: Mapping[str, Array]) -> Float32:
    """float32 [O, I] of a tensor of ggml type `kind`."""
    if kind == "MXFP4":
        with np.errstate(over="ignore"):  # 2^127 times 12 is infinite for every reader
            return _times(e8m0_halves(fields["e"].astype(np.uint8)), E2M1_DOUBLED[codes_OI.astype(np.intp)])
    step = fields["d"].astype(np.float32)
    if "scales" in fields:
        step = spread(step, fields["scales"]) * fields["scales"].astype(np.float32)
    if kind in ("IQ4_NL", "IQ4_XS"):
        return _times(step, IQ4_LEVELS[codes_OI.astype(np.intp)])
    codes = codes_OI.astype(np.float32)
    if kind in ("Q2_K", "Q4_K", "Q5_K"):
        low = spread(fields["dmin"].astype(np.float32), fields["mins"]) * fields["mins"].astype(np.float32)
        return _times(step, codes) - spread(low, codes)
    if kind in ("Q4_1", "Q5_1"):
        return _times(step, codes) + spread(fields["m"].astype(np.float32), codes)
    return _times(step, codes - np.float32(ZERO[kind]))


def e8m0_halves(exponents: NDArray[np.uint8]) -> Float32:
    """Half of the scale 2^(e - 127), exactly; the two smallest are subnormal."""
    wide = exponents.astype(np.uint32)
    bits = np.where(wide < 2, np.uint32(0x00200000) << wide, (wide - np.uint32(1)) << np.uint32(23))
    return bits.astype(np.uint32).view(np.float32)


def _times(step: Float32, levels: Float32) -> Float32:
    return spread(step, levels) * levels
