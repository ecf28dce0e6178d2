"""Scale search for grids of one step per group: integer schemes, and the ggml types Q4_0 to Q8_0.

Scales come first, weighted: each candidate is scored by Σ d_i · error², d the diagonal of the Gram matrix. Min-max
scales throw half of what GPTQ brings away (docs/log.md, 2026-11-21). On symmetric grids both signs are tried, because
the code range is not symmetric: [-8, 7] reaches further on one side.

The scale is rounded to the dtype that will be stored before the codes are chosen.
Not here: error feedback (gptq.py), super-blocks (kquants.py).
Dimension key: O outputs · I inputs · G groups along I
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitwright.quantize import block_kernels, kernels
from bitwright.quantize.grid import Grid
from bitwright.quantize.lane_sums import turned, turned_back
from bitwright.tensors.qtensor import Float32

SHRINKS = np.linspace(0.35, 1.1, 24, dtype=np.float32)  # of the min-max scale; tried with either sign


def round_scale(values: NDArray[np.floating], dtype: str) -> Float32:
    """Round float32 scales to what `dtype` (f32, f16, bf16) can store, as float32."""
    values = np.ascontiguousarray(values, dtype=np.float32)
    if dtype == "f16":
        return values.astype(np.float16).astype(np.float32)
    if dtype == "bf16":
        bits = values.view(np.uint32)
        rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        return rounded.view(np.float32)
    return values


def symmetric_grid(
    weight_OI: Float32, importance_I: Float32, *, group_size: int, low: int, high: int, dtype: str, signed: bool = True
) -> Grid:
    """Steps for codes in [low, high] around zero."""
    weight_IO = turned(weight_OI)
    step_GO = np.empty((weight_IO.shape[0] // group_size, weight_IO.shape[1]), dtype=np.float32)
    block_kernels.search_signed(
        weight_IO, importance_I, group_size, np.float32(low), np.float32(high), False, 2 if signed else 1, SHRINKS,
        step_GO, np.empty_like(step_GO),
    )  # fmt: skip
    step_OG = turned_back(step_GO, len(weight_OI))
    zeros = np.zeros_like(step_OG)
    return Grid(
        step_OG=round_scale(step_OG, dtype), zero_OG=zeros, offset_OG=zeros, group_size=group_size, low=low, high=high
    )


def zero_point_grid(
    weight_OI: Float32, importance_I: Float32, *, group_size: int, low: int, high: int, dtype: str
) -> Grid:
    """Steps and integer zero points in [low, high]."""
    step_OG, minimum_OG = _affine(weight_OI, importance_I, group_size, high - low, free_sign=False, whole_zero=True)
    step_OG = round_scale(step_OG, dtype)
    safe_OG = np.where(step_OG == 0, np.float32(1), step_OG)
    zero_OG = np.clip(np.rint(low - minimum_OG / safe_OG), low, high).astype(np.float32)
    return Grid(
        step_OG=step_OG, zero_OG=zero_OG, offset_OG=np.zeros_like(step_OG), group_size=group_size, low=low, high=high
    )


def offset_grid(weight_OI: Float32, importance_I: Float32, *, group_size: int, high: int, dtype: str) -> Grid:
    """Steps and real minimums (Q4_1, Q5_1): codes in [0, high]."""
    step_OG, minimum_OG = _affine(weight_OI, importance_I, group_size, high, free_sign=True)
    step_OG = round_scale(step_OG, dtype)
    return Grid(
        step_OG=step_OG, zero_OG=np.zeros_like(step_OG), offset_OG=round_scale(minimum_OG, dtype),
        group_size=group_size, low=0, high=high,
    )  # fmt: skip


def affine_search(
    weight_OI: Float32, importance_I: Float32, group_size: int, levels: int, *, free_sign: bool
) -> tuple[Float32, Float32]:
    """Real step and minimum per group, [O, G] each, for codes 0 … levels. Minimums are ≤ 0 unless `free_sign`."""
    return _affine(weight_OI, importance_I, group_size, levels, free_sign=free_sign)


def _affine(
    weight_OI: Float32,
    importance_I: Float32,
    group_size: int,
    levels: int,
    *,
    free_sign: bool,
    whole_zero: bool = False,
) -> tuple[Float32, Float32]:
    shape = (weight_OI.shape[0], weight_OI.shape[1] // group_size)
    step_OG, minimum_OG = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    kernels.search_affine(weight_OI, importance_I, group_size, levels, free_sign, whole_zero, step_OG, minimum_OG)
    return step_OG, minimum_OG
