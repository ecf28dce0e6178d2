"""Small integers in 32-bit words and half bytes, as compressed-tensors stores them.

    stored value = code + 2^(bits-1)                       unsigned, `bits` wide, 2 to 8
    a row is one stream of bits, first value lowest        32 values take exactly `bits` words, little-endian
    a row of C values takes ceil(C * bits / 32) words      unused high bits are zero
    older files (before compressed-tensors 0.17)           32 // bits values in each word, the rest of the word unused

For 2, 4 and 8 bits both layouts are the same bytes; a reader tells them apart by the number of words. Zero points use
the same words along the other dimension: pack the transpose, transpose back.

Eight values fill `bits` whole bytes: they are gathered in one 64-bit word, of which the low bytes are kept.

Source: compressed-tensors 0.20, compressors/pack_quantized/helpers.py; its pull request 715 for the older layout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.facts.stored_tensors import words_for

__all__ = [
    "pack_nibbles",
    "pack_rows",
    "padded_words_for",
    "unpack_nibbles",
    "unpack_padded_rows",
    "unpack_rows",
    "words_for",
]

RUN = 8  # values that fill whole bytes at any width


def pack_rows(codes: NDArray[Any], bits: int) -> NDArray[np.int32]:
    """Pack signed codes [R, C] in [-2^(bits-1), 2^(bits-1) - 1] into words [R, ceil(C*bits/32)]."""
    assert 2 <= bits <= 8, bits
    half = 1 << (bits - 1)
    assert codes.size == 0 or (codes.min() >= -half and codes.max() < half), f"codes leave {bits} bits"
    rows, columns = codes.shape
    words = words_for(columns, bits)
    runs = -(-columns // RUN)
    stored = np.zeros((rows, runs * RUN), dtype=np.uint8)
    stored[:, :columns] = (codes.astype(np.int16) + half).astype(np.uint8)
    stored = stored.reshape(rows, runs, RUN)
    gathered = np.zeros((rows, runs), dtype="<u8")
    for place in range(RUN):
        gathered |= stored[:, :, place].astype("<u8") << np.uint64(place * bits)
    stream = gathered.view(np.uint8).reshape(rows, runs, 8)[:, :, :bits].reshape(rows, runs * bits)
    packed = np.zeros((rows, words * 4), dtype=np.uint8)
    kept = min(words * 4, runs * bits)  # a last run that is not full may end behind the last word
    packed[:, :kept] = stream[:, :kept]
    return packed.view("<i4").reshape(rows, words)


def unpack_rows(words: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.int8]:
    """The inverse of `pack_rows`: signed codes [R, columns]."""
    assert 2 <= bits <= 8, bits
    assert words.shape[1] == words_for(columns, bits), (words.shape, columns, bits)
    rows, runs = words.shape[0], -(-columns // RUN)
    held = np.ascontiguousarray(words, dtype="<i4").view(np.uint8).reshape(rows, -1)
    stream = np.zeros((rows, runs * bits), dtype=np.uint8)
    kept = min(held.shape[1], runs * bits)
    stream[:, :kept] = held[:, :kept]
    spread = np.zeros((rows, runs, 8), dtype=np.uint8)
    spread[:, :, :bits] = stream.reshape(rows, runs, bits)
    gathered = spread.view("<u8").reshape(rows, runs, 1)
    places = np.arange(RUN, dtype=np.uint64) * np.uint64(bits)
    stored = (gathered >> places) & np.uint64((1 << bits) - 1)
    return _signed(stored.reshape(rows, -1)[:, :columns], bits)


def padded_words_for(count: int, bits: int) -> int:
    """Words in the older layout."""
    return -(-count // (32 // bits))


def unpack_padded_rows(words: NDArray[np.int32], bits: int, columns: int) -> NDArray[np.int8]:
    """Signed codes [R, columns] out of the older layout, for reading."""
    assert words.shape[1] == padded_words_for(columns, bits), (words.shape, columns, bits)
    places = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    held = np.ascontiguousarray(words, dtype="<i4").view("<u4")
    stored = (held[:, :, None] >> places) & np.uint32((1 << bits) - 1)
    return _signed(stored.reshape(words.shape[0], -1)[:, :columns], bits)


def pack_nibbles(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes 0 to 15 [R, C], C even, in bytes [R, C/2]: the first of two in the low half."""
    assert codes.shape[1] % 2 == 0, codes.shape
    assert codes.size == 0 or codes.max() < 16, "codes leave 4 bits"
    packed: NDArray[np.uint8] = codes[:, 0::2] | (codes[:, 1::2] << np.uint8(4))
    return packed


def unpack_nibbles(packed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The inverse of `pack_nibbles`."""
    codes = np.empty((packed.shape[0], packed.shape[1] * 2), dtype=np.uint8)
    codes[:, 0::2], codes[:, 1::2] = packed & np.uint8(15), packed >> np.uint8(4)
    return codes


def _signed(stored: NDArray[Any], bits: int) -> NDArray[np.int8]:
    return (stored.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)
