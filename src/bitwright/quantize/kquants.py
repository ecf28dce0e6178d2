"""Scales of the k-quants: Q4_K, Q5_K (step and minimum per 32 inputs) and Q6_K (signed step per 16 inputs).

A super-block of 256 inputs holds one float16 factor for its steps (and one for its minimums); each sub-block holds small
integers that multiply it. The search runs outside in:
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

import numba
import numpy as np
from numpy.typing import NDArray

from bitwright.quantize.grid import Grid
from bitwright.quantize.integer import affine_search, symmetric_grid
from bitwright.tensors.qtensor import Array, Float32

SUPER = 256
ROUNDS = 2  # of steps 3 and 4; a third lowers the error by under 0.1 %
BIG = np.float32(3e38)


def affine_kquant(weight_OI: Float32, importance_I: Float32, *, high: int) -> tuple[Grid, dict[str, Array]]:
    """Grid and stored fields of Q4_K (`high` 15) or Q5_K (`high` 31)."""
    step_OS, minimum_OS = affine_search(weight_OI, importance_I, 32, high, free_sign=False)
    low_OS = -minimum_OS
    per_super = SUPER // 32
    d_ON = _factor(step_OS, per_super, 63)
    dmin_ON = _factor(low_OS, per_super, 63)
    shape = step_OS.shape
    best = {
        "d": d_ON, "dmin": dmin_ON,
        "scales": np.zeros(shape, dtype=np.uint8), "mins": np.zeros(shape, dtype=np.uint8),
    }  # fmt: skip
    best_loss_ON = np.full(d_ON.shape, BIG)
    for _ in range(ROUNDS):
        scales_OS, mins_OS = np.empty(shape, dtype=np.uint8), np.empty(shape, dtype=np.uint8)
        next_d_ON, next_dmin_ON, loss_ON = np.empty_like(d_ON), np.empty_like(d_ON), np.empty_like(d_ON)
        _fit_affine(
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
    best = {"d": d_ON, "scales": np.zeros(step_OS.shape, dtype=np.int8)}
    best_loss_ON = np.full(d_ON.shape, BIG)
    for _ in range(ROUNDS):
        scales_OS = np.empty(step_OS.shape, dtype=np.int8)
        next_d_ON, loss_ON = np.empty_like(d_ON), np.empty_like(d_ON)
        _fit_signed(weight_OI, importance_I, step_OS, d_ON, scales_OS, next_d_ON, loss_ON)
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


def _keep(best: dict[str, NDArray], best_loss_ON: Float32, loss_ON: Float32, found: dict[str, NDArray]) -> None:  # type: ignore[type-arg]
    """Take over, super-block by super-block, what has the lower loss."""
    better_ON = loss_ON < best_loss_ON
    best_loss_ON[better_ON] = loss_ON[better_ON]
    for name, values in found.items():
        mask = np.repeat(better_ON, values.shape[1] // better_ON.shape[1], axis=1)
        best[name] = np.where(mask, values, best[name])


@numba.njit(inline="always", fastmath=True)
def _affine_loss(w, d, step, low, top):  # type: ignore[no-untyped-def]
    loss = np.float32(0)
    inverse = np.float32(1) / step if step > 0 else np.float32(0)
    for i in range(len(w)):
        q = min(max(np.rint((w[i] + low) * inverse), np.float32(0)), top)
        e = w[i] - (step * q - low)
        loss += d[i] * e * e
    return loss


@numba.njit(parallel=True, cache=True, nogil=True, fastmath=True)
def _fit_affine(weight_OI, importance_I, step_OS, low_OS, d_ON, dmin_ON, high, scales_OS, mins_OS, next_d_ON, next_dmin_ON, loss_ON):  # type: ignore[no-untyped-def]  # noqa: E501
    rows, supers = d_ON.shape
    top = np.float32(high)
    for o in numba.prange(rows):
        for n in range(supers):
            d, dmin = d_ON[o, n], dmin_ON[o, n]
            total = np.float32(0)
            aa, ab, bb, aw, bw = 0.0, 0.0, 0.0, 0.0, 0.0
            for s in range(n * 8, n * 8 + 8):
                w = weight_OI[o, s * 32 : s * 32 + 32]
                importance = importance_I[s * 32 : s * 32 + 32]
                near_scale = int(np.rint(step_OS[o, s] / d)) if d > 0 else 0
                near_min = int(np.rint(low_OS[o, s] / dmin)) if dmin > 0 else 0
                best, best_scale, best_min = BIG, 0, 0
                for scale in range(max(near_scale - 1, 0), min(near_scale + 1, 63) + 1):
                    for minimum in range(max(near_min - 1, 0), min(near_min + 1, 63) + 1):
                        loss = _affine_loss(w, importance, d * np.float32(scale), dmin * np.float32(minimum), top)
                        if loss < best:
                            best, best_scale, best_min = loss, scale, minimum
                scales_OS[o, s], mins_OS[o, s] = best_scale, best_min
                total += best
                step, low = d * np.float32(best_scale), dmin * np.float32(best_min)
                inverse = np.float32(1) / step if step > 0 else np.float32(0)
                for i in range(32):
                    q = min(max(np.rint((w[i] + low) * inverse), np.float32(0)), top)
                    a, b = np.float32(best_scale) * q, -np.float32(best_min)
                    aa += importance[i] * a * a
                    ab += importance[i] * a * b
                    bb += importance[i] * b * b
                    aw += importance[i] * a * w[i]
                    bw += importance[i] * b * w[i]
            loss_ON[o, n] = total
            determinant = aa * bb - ab * ab
            next_d_ON[o, n], next_dmin_ON[o, n] = d, dmin
            if determinant > 1e-12 * aa * bb and aa > 0 and bb > 0:
                solved_d = (aw * bb - bw * ab) / determinant
                solved_dmin = (bw * aa - aw * ab) / determinant
                if solved_d > 0 and solved_dmin >= 0:
                    next_d_ON[o, n], next_dmin_ON[o, n] = solved_d, solved_dmin
            elif aa > 0 and aw > 0:
                next_d_ON[o, n] = aw / aa


@numba.njit(parallel=True, cache=True, nogil=True, fastmath=True)
def _fit_signed(weight_OI, importance_I, step_OS, d_ON, scales_OS, next_d_ON, loss_ON):  # type: ignore[no-untyped-def]
    rows, supers = d_ON.shape
    low, high = np.float32(-32), np.float32(31)
    for o in numba.prange(rows):
        for n in range(supers):
            d = d_ON[o, n]
            total = np.float32(0)
            square, cross = 0.0, 0.0
            for s in range(n * 16, n * 16 + 16):
                w = weight_OI[o, s * 16 : s * 16 + 16]
                importance = importance_I[s * 16 : s * 16 + 16]
                near = int(np.rint(step_OS[o, s] / d)) if d > 0 else 0
                best, best_scale = BIG, 0
                for scale in range(max(near - 2, -128), min(near + 2, 127) + 1):
                    step = d * np.float32(scale)
                    inverse = np.float32(1) / step if step != 0 else np.float32(0)
                    loss = np.float32(0)
                    for i in range(16):
                        q = min(max(np.rint(w[i] * inverse), low), high)
                        e = w[i] - step * q
                        loss += importance[i] * e * e
                    if loss < best:
                        best, best_scale = loss, scale
                scales_OS[o, s] = best_scale
                total += best
                step = d * np.float32(best_scale)
                inverse = np.float32(1) / step if step != 0 else np.float32(0)
                for i in range(16):
                    q = min(max(np.rint(w[i] * inverse), low), high)
                    a = np.float32(best_scale) * q
                    square += importance[i] * a * a
                    cross += importance[i] * a * w[i]
            loss_ON[o, n] = total
            next_d_ON[o, n] = cross / square if square > 0 and cross > 0 else d
