"""Values of ggml blocks, in llama.cpp's order of operations, so that they are equal bit for bit.

The formulas stand in qtensor.py. Source: llama.cpp ggml-quants.c, dequantize_row_*.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitwright.tensors.arrays import Array, Float32, spread

ZERO = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 0}


def ggml_values(kind: str, codes_OI: Array, fields: Mapping[str, Array]) -> Float32:
    """float32 [O, I] of a tensor of ggml type `kind`."""
    codes = codes_OI.astype(np.float32)
    d = fields["d"].astype(np.float32)
    if kind in ("Q4_K", "Q5_K"):
        step = spread(d, fields["scales"]) * fields["scales"].astype(np.float32)
        low = spread(fields["dmin"].astype(np.float32), fields["mins"]) * fields["mins"].astype(np.float32)
        return spread(step, codes) * codes - spread(low, codes)
    if kind == "Q6_K":
        step = spread(d, fields["scales"]) * fields["scales"].astype(np.float32)
        return spread(step, codes) * (codes - np.float32(32))
    if kind in ("Q4_1", "Q5_1"):
        return spread(d, codes) * codes + spread(fields["m"].astype(np.float32), codes)
    return spread(d, codes) * (codes - np.float32(ZERO[kind]))
