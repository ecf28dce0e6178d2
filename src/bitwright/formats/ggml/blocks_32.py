"""Codecs of ggml's blocks of 32 elements.

Byte table, in order (`h` is half precision, `lo`/`hi` are the nibbles of one byte):

  type  bytes/elements  fields
  Q4_0   18/32   h d; 16 bytes: element j in lo, j + 16 in hi
  Q4_1   20/32   h d; h m; the same
  Q5_0   22/32   h d; 32 bits: bit j is bit 4 of element j; 16 bytes as above
  Q5_1   24/32   h d; h m; the same
  Q8_0   34/32   h d; 32 signed bytes
  IQ4_NL 18/32   as Q4_0; codes point into a table of 16 levels
  MXFP4  17/32   one byte: exponent of the scale (E8M0); 16 bytes of nibbles as Q4_0: sign bit and E2M1 magnitude

Not here: blocks of 256 (blocks_256.py), values (tensors/ggml_values.py).
Sources: llama.cpp ggml/src/ggml-common.h (block structs), ggml-quants.c (dequantize_row_*).
"""

from __future__ import annotations

import numpy as np

from bitwright.formats.ggml.codec import (
    BlockCodec,
    Bytes,
    Fields,
    as_bytes,
    as_halves,
    pack_nibbles,
    unpack_nibbles,
)
from bitwright.tensors.qtensor import Array


class _Plain(BlockCodec):
    """Blocks of 32: half-precision scalars, the fifth bits if any, nibbles with halves apart."""

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        parts = [as_bytes(fields[name]) for name, _, _ in cls.fields]
        if cls.bits == 5:
            parts.append(np.packbits(codes >> 4, axis=1, bitorder="little"))
        parts.append(pack_nibbles(codes, run=16))
        return parts

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        fields: dict[str, Array] = {}
        for at, (name, _, _) in enumerate(cls.fields):
            fields[name] = as_halves(blocks[:, 2 * at : 2 * at + 2])
        codes = unpack_nibbles(blocks[:, -16:], run=16)
        if cls.bits == 5:
            codes |= np.unpackbits(blocks[:, -20:-16], axis=1, bitorder="little") << 4
        return codes, fields


class Q4_0(_Plain, type="Q4_0"):  # noqa: N801 (the type's own name)
    fields = (("d", 1, "<f2"),)
    bits = 4


class Q4_1(_Plain, type="Q4_1"):  # noqa: N801
    fields = (("d", 1, "<f2"), ("m", 1, "<f2"))
    bits = 4


class Q5_0(_Plain, type="Q5_0"):  # noqa: N801
    fields = (("d", 1, "<f2"),)
    bits = 5


class Q5_1(_Plain, type="Q5_1"):  # noqa: N801
    fields = (("d", 1, "<f2"), ("m", 1, "<f2"))
    bits = 5


class Q8_0(BlockCodec, type="Q8_0"):  # noqa: N801
    fields = (("d", 1, "<f2"),)
    bits = 8
    codes_dtype = "i1"

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        return [as_bytes(fields["d"]), codes]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        return np.ascontiguousarray(blocks[:, 2:]).view(np.int8), {"d": as_halves(blocks[:, :2])}


class IQ4_NL(_Plain, type="IQ4_NL"):  # noqa: N801
    fields = (("d", 1, "<f2"),)
    bits = 4


class MXFP4(BlockCodec, type="MXFP4"):
    fields = (("e", 1, "u1"),)
    bits = 4

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        return [as_bytes(fields["e"]), pack_nibbles(codes, run=16)]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        return unpack_nibbles(blocks[:, 1:], run=16), {"e": blocks[:, :1].copy()}
