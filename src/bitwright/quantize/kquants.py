"""Scales of the k-quants: Q4_K, Q5_K (step and minimum per 32 inputs) and Q6_K (signed step per 16 inputs).

A super-block of 256 inputs holds one float16 factor for its steps (and one for its minimums); each sub-block holds
small integers that multiply it. The search runs outside in:
  1. a real step and minimum for every sub-block, scored by Σ d_i · error² (integer.py);
  2. the float16 factors from the largest of them;
  3. for every sub-block, the pair of small integers near the real ones with the least error after rounding the codes;
  4. least-squares factors for those integers and codes, rounded to float16, then step 3 again; the better of the two
     rounds is kept for each super-block.
llama.cpp stops after one round of 2 and 3 without the neighbours (ggml-quants.c, make_qkx3_quants, make_qp_quants).

Not here: error feedback on the codes (gptq.py), bytes (formats/gguf_blocks.py).
Dimension key: O outputs · I inputs · N super-blocks per row · S sub-blocks per row
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.quantize import kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import affine_search, symmetric_grid
from bitwright.tensors.qtensor import Array, Float32

SUPER = 256
ROUNDS = 2  # of steps 3 and 4; a third lowers the error by under 0.1 %


def affine_kquant(weight_OI: Float32, importance_I: Float32, *, high: int) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of Q4_K (`high` 15) or Q5_K (`high` 31)."""
    step_OS, minimum_OS = affine_search(weight_OI, importance_I, 32, high, free_sign=False)
    low_OS = -minimum_OS
    per_super = SUPER // 32
    d_ON = _factor(step_OS, per_super, 63)
    dmin_ON = _factor(low_OS, per_super, 63)
    shape = step_OS.shape
    best: dict[str, NDArray[Any]] = {
        "d": d_ON, "dmin": dmin_ON,
        "scales": np.zeros(shape, dtype=np.uint8), "mins": np.zeros(shape, dtype=np.uint8),
    }  # fmt: skip
    best_loss_ON = np.full(d_ON.shape, kernels.BIG)
    for _ in range(ROUNDS):
        scales_OS, mins_OS = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
        next_d_ON, next_dmin_ON, loss_ON = np.empty_like(d_ON), np.empty_like(d_ON), np.empty_like(d_ON)
        kernels.fit_affine(
            weight_OI, importance_I, step_OS, low_OS, d_ON, dmin_ON, high,
            scales_OS, mins_OS, next_d_ON, next_dmin_ON, loss_ON,
        )  # fmt: skip
        _keep(best, best_loss_ON, loss_ON, {"d": d_ON, "dmin": dmin_ON, "scales": scales_OS, "mins": mins_OS})
        d_ON, dmin_ON = _half(next_d_ON), _half(next_dmin_ON)
    step = np.repeat(best["d"], per_super, axis=1) * best["scales"].astype(np.float32)
    offset = -(np.repeat(best["dmin"], per_super, axis=1) * best["mins"].astype(np.float32))
    grid = Grid(step_OG=step, zero_OG=np.zeros_like(step), offset_OG=offset, group_size=32, low=0, high=high)
    fields: dict[str, Array] = {
        "d": best["d"].astype(np.float16), "dmin": best["dmin"].astype(np.float16),
        "scales": best["scales"], "mins": best["mins"],
    }  # fmt: skip
    return grid, fields


def signed_kquant(weight_OI: Float32, importance_I: Float32) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of Q6_K."""
    step_OS = symmetric_grid(weight_OI, importance_I, group_size=16, low=-32, high=31, dtype="f32").step_OG
    per_super = SUPER // 16
    d_ON = _factor(np.abs(step_OS), per_super, 127)
    best: dict[str, NDArray[Any]] = {"d": d_ON, "scales": np.zeros(step_OS.shape, dtype=np.int8)}
    best_loss_ON = np.full(d_ON.shape, kernels.BIG)
    for _ in range(ROUNDS):
        scales_OS = np.empty(step_OS.shape, dtype=np.int8)
        next_d_ON, loss_ON = np.empty_like(d_ON), np.empty_like(d_ON)
        kernels.fit_signed(weight_OI, importance_I, step_OS, d_ON, scales_OS, next_d_ON, loss_ON)
        _keep(best, best_loss_ON, loss_ON, {"d": d_ON, "scales": scales_OS})
        d_ON = _half(next_d_ON)
    step = np.repeat(best["d"], per_super, axis=1) * best["scales"].astype(np.float32)
    zero = np.full_like(step, 32)
    grid = Grid(step_OG=step, zero_OG=zero, offset_OG=np.zeros_like(step), group_size=16, low=0, high=63)
    fields: dict[str, Array] = {"d": best["d"].astype(np.float16), "scales": best["scales"]}
    return grid, fields


def _half(values: Float32) -> Float32:
    return values.astype(np.float16).astype(np.float32)


def _factor(values_OS: Float32, per_super: int, levels: int) -> Float32:
    rows, subs = values_OS.shape
    return _half(values_OS.reshape(rows, subs // per_super, per_super).max(axis=2) / np.float32(levels))


def _keep(
    best: dict[str, NDArray[Any]], best_loss_ON: Float32, loss_ON: Float32, found: dict[str, NDArray[Any]]
) -> None:
    """Take over, super-block by super-block, what has the lower loss."""
    better_ON = loss_ON < best_loss_ON
    best_loss_ON[better_ON] = loss_ON[better_ON]
    for name, values in found.items():
        mask = np.repeat(better_ON, values.shape[1] // better_ON.shape[1], axis=1)
        best[name] = np.where(mask, values, best[name])
