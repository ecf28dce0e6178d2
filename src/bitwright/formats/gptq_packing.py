"""Small unsigned integers in 32-bit words, as GPTQ files store codes and zero points.

A row of C values of b bits is one stream of bits: value i takes bits i*b … i*b + b - 1, lowest first, and 32 values
fill exactly b words. With 2, 4 and 8 bits no value crosses a word. With 3 bits the stream is the pattern that AutoGPTQ
writes out by hand: ten values, one split 2 + 1, ten values, one split 1 + 2, ten values.

    qweight  [in*b/32, out]      packed along the inputs, codes + 2^(b-1)
    qzeros   [groups, out*b/32]  packed along the outputs; stored is z (`gptq_v2`) or z - 1 (`gptq`)

Source: AutoGPTQ 0.7, nn_modules/qlinear/qlinear_cuda_old.py (pack); GPTQModel, utils/model.py (v1 and v2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

BITS = (2, 3, 4, 8)
VERSIONS = ("gptq", "gptq_v2")  # values of `checkpoint_format`
SIDE_CONFIG = "quantize_config.json"
WORD = 32


def fills_words(count: int, bits: int) -> bool:
    """Whether a row of `count` values ends with a whole word; the format has no other rows."""
    return count * bits % WORD == 0


def pack(values: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Unsigned values [R, C] below 2^bits → words [R, C*bits/32]."""
    rows, columns = values.shape
    assert bits in BITS, bits
    assert fills_words(columns, bits), (columns, bits)
    assert values.size == 0 or (values.min() >= 0 and values.max() < 1 << bits), f"values leave {bits} bits"
    if bits == 3:
        stream = np.unpackbits(values.astype(np.uint8)[:, :, None], axis=2, count=bits, bitorder="little")
        packed = np.packbits(stream.reshape(rows, -1), axis=1, bitorder="little")
    else:
        per_byte = 8 // bits
        lanes = values.astype(np.uint8).reshape(rows, -1, per_byte)
        packed = np.zeros(lanes.shape[:2], dtype=np.uint8)
        for lane in range(per_byte):
            packed |= lanes[:, :, lane] << np.uint8(lane * bits)
    return np.ascontiguousarray(packed).view("<i4").reshape(rows, columns * bits // WORD)


def unpack(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack`: unsigned values [R, words*32/bits]."""
    assert bits in BITS, bits
    rows = words.shape[0]
    packed = np.ascontiguousarray(words, dtype="<i4").view(np.uint8).reshape(rows, -1)
    if bits == 3:
        stream = np.unpackbits(packed, axis=1, bitorder="little").reshape(rows, -1, bits)
        return np.packbits(stream, axis=2, bitorder="little")[:, :, 0]
    lanes = [(packed >> np.uint8(shift)) & np.uint8((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(lanes, axis=-1).reshape(rows, -1)
