"""Codecs of ggml's super-blocks of 256 elements, whose sub-blocks of 16 or 32 have small integer scales.

Byte table, in order (`h` is half precision, `lo`/`hi` are the nibbles of one byte):

  type  bytes/elements  fields
  Q2_K   84/256  16 bytes: scale in lo, min in hi; 64 bytes of 2-bit codes, 4 in a byte at 32 elements' distance; h d;
                 h dmin
  Q3_K  110/256  32 bytes: bit s of byte e is bit 2 of element e of run s of 32; 64 bytes of low bits as Q2_K; 12 bytes
                 of 6-bit scales, stored plus 32: bytes 0-7 their low nibbles, bytes 8-11 their high pairs; h d
  Q4_K  144/256  h d; h dmin; 12 bytes of 6-bit scales and mins; 4 runs of 32 bytes: 32 elements in lo, the next in hi
  Q5_K  176/256  h d; h dmin; 12 bytes; 32 bytes: bit s of byte e is bit 4 of element e of sub-block s; as Q4_K
  Q6_K  210/256  128 bytes of low nibbles; 64 bytes of 2-bit high parts; 16 signed scales; h d
  IQ4_XS 136/256 h d; 16 bits: pair s is the top of scale s; 4 bytes: low nibbles of the scales, stored plus 32; 8 runs
                 of 16 bytes: element j in lo, j + 16 in hi; codes point into a table of 16 levels

Not here: blocks of 32 (blocks_32.py), values (tensors/ggml_values.py).
Sources: llama.cpp ggml/src/ggml-common.h (block structs), ggml-quants.c (dequantize_row_*, get_scale_min_k4).
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bitwright.formats.ggml.codec import (
    PAIR_SHIFTS,
    BlockCodec,
    Bytes,
    Fields,
    as_bytes,
    as_halves,
    gather,
    pack_bits,
    pack_nibbles,
    pack_pairs,
    unpack_nibbles,
    unpack_pairs,
)
from bitwright.tensors.qtensor import Array


class Q2_K(BlockCodec, type="Q2_K"):  # noqa: N801 (the type's own name)
    fields = (("scales", 16, "u1"), ("mins", 16, "u1"), ("d", 1, "<f2"), ("dmin", 1, "<f2"))
    bits = 2

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        scales, mins = as_bytes(fields["scales"]), as_bytes(fields["mins"])
        assert not scales.size or max(int(scales.max()), int(mins.max())) < 16, "a scale or min needs more than 4 bits"
        return [as_bytes(scales | mins << 4), pack_pairs(codes), as_bytes(fields["d"]), as_bytes(fields["dmin"])]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        fields = {
            "scales": blocks[:, :16] & 15, "mins": blocks[:, :16] >> 4,
            "d": as_halves(blocks[:, 80:82]), "dmin": as_halves(blocks[:, 82:84]),
        }  # fmt: skip
        return unpack_pairs(blocks[:, 16:80]), fields


class Q3_K(BlockCodec, type="Q3_K"):  # noqa: N801
    fields = (("scales", 16, "i1"), ("d", 1, "<f2"))
    bits = 3

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        high = pack_bits(as_bytes(codes >> 2))
        scales = _shifted(fields["scales"])
        top = gather(as_bytes(scales >> 4).reshape(-1, 4, 4), 2)
        low = (scales[:, :8] & 15) | (scales[:, 8:] & 15) << 4
        return [high, pack_pairs(as_bytes(codes & 3)), as_bytes(low), top, as_bytes(fields["d"])]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        high = np.unpackbits(blocks[:, :32].reshape(-1, 1, 32), axis=1, bitorder="little")
        codes = unpack_pairs(blocks[:, 32:96]) | (high.reshape(-1, 256) << 2)
        low = np.concatenate([blocks[:, 96:104] & 15, blocks[:, 96:104] >> 4], axis=1)
        top = (blocks[:, 104:108].reshape(-1, 1, 1, 4) >> PAIR_SHIFTS) & 3
        scales = (low | top.reshape(-1, 16) << 4).view(np.int8) - np.int8(32)
        return codes, {"scales": scales, "d": as_halves(blocks[:, 108:110])}


class _SuperBlock(BlockCodec):
    """Q4_K and Q5_K: eight sub-blocks of 32 with 6-bit scales and mins."""

    fields = (("d", 1, "<f2"), ("dmin", 1, "<f2"), ("scales", 8, "u1"), ("mins", 8, "u1"))

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        parts = [
            as_bytes(fields["d"]),
            as_bytes(fields["dmin"]),
            _pack_six_bits(as_bytes(fields["scales"]), as_bytes(fields["mins"])),
        ]
        if cls.bits == 5:
            parts.append(pack_bits(as_bytes(codes >> 4)))
        parts.append(pack_nibbles(codes, run=32))
        return parts

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        scales, mins = _unpack_six_bits(blocks[:, 4:16])
        codes = unpack_nibbles(blocks[:, -128:], run=32)
        if cls.bits == 5:
            high = np.unpackbits(blocks[:, 16:48].reshape(-1, 1, 32), axis=1, bitorder="little")
            codes |= high.reshape(-1, 256) << 4
        return codes, {"d": as_halves(blocks[:, :2]), "dmin": as_halves(blocks[:, 2:4]), "scales": scales, "mins": mins}


class Q4_K(_SuperBlock, type="Q4_K"):  # noqa: N801
    bits = 4


class Q5_K(_SuperBlock, type="Q5_K"):  # noqa: N801
    bits = 5


class Q6_K(BlockCodec, type="Q6_K"):  # noqa: N801
    """Two halves of 128 elements; each is four runs of 32 that share 64 low bytes and 32 high bytes."""

    fields = (("d", 1, "<f2"), ("scales", 16, "i1"))
    bits = 6

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        return [
            pack_nibbles(codes, run=64),
            pack_pairs(as_bytes(codes >> 4)),
            as_bytes(fields["scales"]),
            as_bytes(fields["d"]),
        ]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        codes = unpack_nibbles(blocks[:, :128], run=64) | (unpack_pairs(blocks[:, 128:192]) << 4)
        return codes, {
            "scales": np.ascontiguousarray(blocks[:, 192:208]).view(np.int8),
            "d": as_halves(blocks[:, 208:210]),
        }


class IQ4_XS(BlockCodec, type="IQ4_XS"):  # noqa: N801
    fields = (("d", 1, "<f2"), ("scales", 8, "i1"))
    bits = 4
    TOP_SHIFTS: ClassVar[Array] = np.arange(0, 16, 2, dtype=np.uint16)

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        scales = _shifted(fields["scales"])
        top = np.bitwise_or.reduce((scales >> 4).astype("<u2") << cls.TOP_SHIFTS, axis=1, keepdims=True)
        return [as_bytes(fields["d"]), as_bytes(top), pack_nibbles(scales, run=1), pack_nibbles(codes, run=16)]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        top = (np.ascontiguousarray(blocks[:, 2:4]).view("<u2") >> cls.TOP_SHIFTS) & 3
        raw = unpack_nibbles(blocks[:, 4:8], run=1) | top.astype(np.uint8) << 4
        fields: dict[str, Array] = {"d": as_halves(blocks[:, :2]), "scales": raw.view(np.int8) - np.int8(32)}
        return unpack_nibbles(blocks[:, 8:], run=16), fields


def _shifted(scales: Array) -> Bytes:
    """Signed scales of 6 bits as they are stored, plus 32."""
    assert not scales.size or (int(scales.min()) >= -32 and int(scales.max()) <= 31), "a scale needs more than 6 bits"
    return as_bytes(scales) + np.uint8(32)


def _pack_six_bits(scales: Bytes, mins: Bytes) -> Bytes:
    """Eight scales and eight mins of 6 bits in 12 bytes; the upper four of each lend two bits to the lower four."""
    assert not scales.size or max(int(scales.max()), int(mins.max())) < 64, "a scale or min needs more than 6 bits"
    return np.concatenate(
        [
            scales[:, :4] | (scales[:, 4:] >> 4) << 6,
            mins[:, :4] | (mins[:, 4:] >> 4) << 6,
            (scales[:, 4:] & 15) | (mins[:, 4:] & 15) << 4,
        ],
        axis=1,
    )


def _unpack_six_bits(packed: Bytes) -> tuple[Bytes, Bytes]:
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 63, (third & 15) | (first >> 6) << 4], axis=1)
    mins = np.concatenate([second & 63, (third >> 4) | (second >> 6) << 4], axis=1)
    return scales, mins
