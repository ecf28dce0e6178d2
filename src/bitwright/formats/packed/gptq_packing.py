"""Small unsigned integers in 32-bit words, as GPTQ files store codes and zero points.

A row of C values of b bits is one stream of bits: value i takes bits i*b … i*b + b - 1, lowest first, and 32 values
fill exactly b words. With 2, 4 and 8 bits no value crosses a word. With 3 bits the stream is the pattern that AutoGPTQ
writes out by hand: ten values, one split 2 + 1, ten values, one split 1 + 2, ten values.

    qweight  [in*b/32, out]      packed along the inputs, codes + 2^(b-1)
    qzeros   [groups, out*b/32]  packed along the outputs; stored is z (`gptq_v2`) or z - 1 (`gptq`)

It is the packing of compressed-tensors (packing.py), which only counts from the middle of the range.

Source: AutoGPTQ 0.7, nn_modules/qlinear/qlinear_cuda_old.py (pack); GPTQModel, utils/model.py (v1 and v2).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.formats.packing import pack_rows, unpack_rows

BITS = (2, 3, 4, 8)
VERSIONS = ("gptq", "gptq_v2")  # values of `checkpoint_format`
SIDE_CONFIG = "quantize_config.json"
WORD = 32


def fills_words(count: int, bits: int) -> bool:
    """Whether a row of `count` values ends with a whole word; the format has no other rows."""
    return count * bits % WORD == 0


def pack(values: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Unsigned values [R, C] below 2^bits → words [R, C*bits/32]."""
    assert bits in BITS, bits
    assert fills_words(values.shape[1], bits), (values.shape, bits)
    return pack_rows(values.astype(np.int16) - (1 << (bits - 1)), bits)


def unpack(words: NDArray[np.int32], bits: int) -> NDArray[np.uint8]:
    """The inverse of `pack`: unsigned values [R, words*32/bits]."""
    assert bits in BITS, bits
    codes = unpack_rows(words, bits, words.shape[1] * WORD // bits)
    return (codes.astype(np.int16) + (1 << (bits - 1))).astype(np.uint8)
