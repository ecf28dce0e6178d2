"""NF4, FP4 and LLM.int8: the very codes and scales that bitsandbytes would choose.

Loaders of these formats are bitsandbytes itself, and QLoRA adapters are trained on its rounding, so equality with the
library is worth more here than a better scale: every stored number equals its CPU backend's bit for bit. That fixes
some arithmetic that one would not choose: products with the reciprocal of a maximum instead of quotients (but a
quotient in an incomplete last block), sixteen-bit weights before LLM.int8, and a search of the 8-bit map through a
table of 65536 steps whose cells differ from the nearest level by up to 1.5e-5 of the range.

Blocks run across rows and share a mean, so a matrix is quantized whole and not in slabs. No statistics are used.

Not here: levels and values (tensors/codebook_values.py), bytes (formats/packed/bnb_writer.py).
Dimension key: O outputs · I inputs · B blocks · S steps of the table
Sources: bitsandbytes 0.50.2, backends/default/ops.py and csrc/cpu_ops.cpp (behaviour probed through its functions).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.errors import InputError
from bitwright.core.schemes import CodebookScheme, Int8RowScheme
from bitwright.tensors.codebook_values import LEVELS, NESTED_BLOCK, dynamic_levels
from bitwright.tensors.qtensor import Array, Float32, QTensor

CHUNK = 1 << 14  # blocks at a time: bounds the temporaries
TINY = np.float32(1e-38)  # least divisor
STEPS = 65536  # cells of the table over [-1, 1]
# Ascending levels by code. FP4 has two zeros: the positive one stands first and is the one that is chosen
ORDER = {"nf4": np.arange(16, dtype=np.uint8), "fp4": np.array([11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3])}
HALF_LIMIT = 65520.0  # from here on a float32 rounds to infinity in 16 bits


def quantize_codebook(weight_OI: Float32, scheme: CodebookScheme) -> QTensor:
    """Nearest levels under the largest magnitude of each block; with double quantization those in 8 bits."""
    flat = np.ascontiguousarray(weight_OI, dtype=np.float32).reshape(-1)
    blocks = -(-flat.size // scheme.block)
    codes = np.empty(flat.size, dtype=np.uint8)
    absmax_B = np.empty(blocks, dtype=np.float32)
    for first in range(0, blocks, CHUNK):
        part = flat[first * scheme.block : (first + CHUNK) * scheme.block]
        codes_part, absmax = _levels_of(part, scheme)
        codes[first * scheme.block : first * scheme.block + part.size] = codes_part
        absmax_B[first : first + len(absmax)] = absmax
    fields: dict[str, Array] = {"absmax": absmax_B}
    if scheme.double_quant:
        fields = _double_quantized(absmax_B)
    return QTensor(scheme=scheme, codes=codes.reshape(weight_OI.shape), fields=fields)


def _levels_of(flat: Float32, scheme: CodebookScheme) -> tuple[NDArray[np.uint8], Float32]:
    """Codes and block maxima; only the last block may be incomplete."""
    whole = flat.size // scheme.block * scheme.block
    body = flat[:whole].reshape(-1, scheme.block)
    absmax = np.abs(body).max(axis=1, initial=0)
    scaled = (body * (np.float32(1) / np.maximum(absmax, TINY))[:, None]).reshape(-1)
    if whole < flat.size:
        last = np.maximum(np.abs(flat[whole:]).max(), TINY)
        absmax = np.append(absmax, last)
        scaled = np.append(scaled, flat[whole:] / last)
    order = ORDER[scheme.codebook]
    ascending = LEVELS[scheme.codebook][order]
    middles = (ascending[:-1] + ascending[1:]) / np.float32(2)
    found = np.searchsorted(middles, np.clip(scaled, -1, 1), side="left")
    return order[found].astype(np.uint8), absmax.astype(np.float32)


def _double_quantized(absmax_B: Float32) -> dict[str, Array]:
    # torch's mean, because the order of the sum decides its last bit
    offset = torch.from_numpy(absmax_B).mean().numpy().reshape(1)
    shifted_B = absmax_B - offset
    codes_B, nested = quantize_dynamic(shifted_B)
    return {"absmax_codes": codes_B, "nested_absmax": nested, "offset": offset}


def quantize_dynamic(values_B: Float32) -> tuple[NDArray[np.uint8], Float32]:
    """8-bit codes of the dynamic map, and the largest magnitude of each 256 values."""
    count = -(-values_B.size // NESTED_BLOCK)
    padded = np.zeros(count * NESTED_BLOCK, dtype=np.float32)
    padded[: values_B.size] = values_B
    blocks = padded.reshape(count, NESTED_BLOCK)
    absmax = np.abs(blocks).max(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        normed = blocks * (np.float32(1) / absmax)[:, None]
    normed = np.clip(np.where(np.isnan(normed), np.float32(-1), normed), np.float32(-1), np.float32(1))
    cells = ((normed + np.float32(1)) * np.float32(0.5)) * np.float32(STEPS - 1) + np.float32(0.5)
    return _table()[cells.astype(np.int64)].reshape(-1)[: values_B.size], absmax


@functools.cache
def _table() -> NDArray[np.uint8]:
    """The nearest level to the middle of each cell, [S]."""
    levels = dynamic_levels()
    middles = (levels[:-1] + levels[1:]) * np.float32(0.5)
    cells = np.arange(STEPS, dtype=np.float32) / np.float32(STEPS - 1) * np.float32(2) - np.float32(1)
    return np.searchsorted(middles, cells).astype(np.uint8)


def quantize_int8_rows(weight_OI: Float32, scheme: Int8RowScheme) -> QTensor:
    """Rows of bytes. Raises `InputError` for weights that 16 bits cannot hold: the library passes through them."""
    with np.errstate(over="ignore"):
        half_OI = np.asarray(weight_OI, dtype=np.float32).astype(np.float16).astype(np.float32)
    largest_O = np.abs(half_OI).max(axis=1, keepdims=True, initial=0)
    if not (largest_O < HALF_LIMIT).all():
        raise InputError(
            f"a weight of magnitude {np.abs(weight_OI).max():g} is beyond 65504, which LLM.int8 passes through",
            hint="use --type NF4, or another format",
        )
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        # torch takes 127 / x as the reciprocal times 127
        scaled_OI = half_OI * (np.float32(1) / largest_O * np.float32(127))
    scaled_OI = np.where(np.isfinite(scaled_OI), scaled_OI, 0)
    return QTensor(scheme=scheme, codes=np.rint(scaled_OI).astype(np.int8), fields={"absmax": largest_O})
