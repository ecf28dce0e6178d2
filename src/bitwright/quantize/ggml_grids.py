"""The grid of every ggml type: which search fixes its scales, and what its block stores.

Errors are weighed by the importance of their input alone. llama.cpp's extra factor sqrt(σ² + x²), which protects the
weights that are large in their block, made files worse here (docs/log.md, 2026-11-21).

Not here: the searches (integer.py, kquants.py, level_blocks.py).
Dimension key: O outputs · I inputs · G groups along I
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bitwright.quantize import integer, kquants, level_blocks
from bitwright.quantize.grid import Grid
from bitwright.tensors.qtensor import Array, Float32

SYMMETRIC = {"Q4_0": (-8, 7, 8), "Q5_0": (-16, 15, 16), "Q8_0": (-127, 127, 0)}  # lowest, highest, stored zero
OFFSET = {"Q4_1": 15, "Q5_1": 31}  # highest code


def ggml_grid(weight_OI: Float32, weights_I: Float32, kind: str) -> tuple[Grid, dict[str, Array]]:
    """Levels of some rows in type `kind`, and the fields that the block stores. `weights_I` are importances, [I]."""
    if kind in SYMMETRIC:
        return _symmetric(weight_OI, weights_I, kind)
    if kind in OFFSET:
        grid = integer.offset_grid(weight_OI, weights_I, group_size=32, high=OFFSET[kind], dtype="f16")
        return grid, {"d": grid.step_OG.astype(np.float16), "m": grid.offset_OG.astype(np.float16)}
    if kind in kquants.AFFINE_TYPES:
        return kquants.affine_kquant(weight_OI, weights_I, kquants.AFFINE_TYPES[kind])
    if kind in kquants.SIGNED_TYPES:
        return kquants.signed_kquant(weight_OI, weights_I, kquants.SIGNED_TYPES[kind])
    match kind:
        case "IQ4_NL":
            return level_blocks.iq4_nl(weight_OI, weights_I)
        case "IQ4_XS":
            return level_blocks.iq4_xs(weight_OI, weights_I)
        case "MXFP4":
            return level_blocks.mxfp4(weight_OI, weights_I)
        case _:
            raise AssertionError(f"{kind} is not quantized")


def _symmetric(weight_OI: Float32, weights_I: Float32, kind: str) -> tuple[Grid, dict[str, Array]]:
    # codes are stored without a sign except in Q8_0, where -128 is left out as every reader's own quantizer does
    low, high, zero = SYMMETRIC[kind]
    found = integer.symmetric_grid(
        weight_OI, weights_I, group_size=32, low=low, high=high, dtype="f16", signed=kind != "Q8_0"
    )
    grid = dataclasses.replace(found, zero_OG=np.full_like(found.step_OG, zero), low=low + zero, high=high + zero)
    return grid, {"d": found.step_OG.astype(np.float16)}
