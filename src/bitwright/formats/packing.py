"""Small signed integers in 32-bit words, as compressed-tensors stores them.

    stored value = code + 2^(bits-1)                       unsigned, `bits` wide
    word k of a row holds values k*32/bits, …              first value in the lowest bits, little-endian
    a row of C values takes ceil(C * bits / 32) words      unused high bits are zero

Zero points use the same words along the other dimension: pack the transpose, transpose back. Only 4 and 8 bits are
written here; both divide a byte, so that packing is a view and one shift.

Source: compressed-tensors 0.20, compressors/pack_quantized/helpers.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def words_for(count: int, bits: int) -> int:
    """32-bit words that `count` values take."""
    return -(-count * bits // 32)


def pack_rows(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Pack signed codes [R, C] in [-2^(bits-1), 2^(bits-1) - 1] into words [R, ceil(C*bits/32)]."""
    assert bits in (4, 8), bits
    half = 1 << (bits - 1)
    assert codes.size == 0 or (codes.min() >= -half and codes.max() < half), f"codes leave {bits} bits"
    rows, columns = codes.shape
    words = words_for(columns, bits)
    stored: NDArray[Any] = np.zeros((rows, words * 32 // bits), dtype=np.uint8)
    stored[:, :columns] = (codes.astype(np.int16) + half).astype(np.uint8)
    if bits == 4:
        stored = stored[:, 0::2] | (stored[:, 1::2] << 4)
    return np.ascontiguousarray(stored).view("<i4").reshape(rows, words)


def unpack_rows(words: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.int8]:
    """The inverse of `pack_rows`: signed codes [R, columns]."""
    assert bits in (4, 8), bits
    assert words.shape[1] == words_for(columns, bits), (words.shape, columns, bits)
    stored = np.ascontiguousarray(words, dtype="<i4").view(np.uint8)
    if bits == 4:
        stored = np.stack((stored & 0xF, stored >> 4), axis=-1).reshape(words.shape[0], -1)
    return (stored[:, :columns].astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
