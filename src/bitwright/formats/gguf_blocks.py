"""Block codecs of ggml: the codes and scales of a `QTensor` laid into bytes, and read back. Nothing is rounded here.

A row of `I` inputs is cut into blocks of 32 or 256 elements; a block is stored whole, blocks follow each other in row
order, all little-endian. Byte table, in order (`h` is half precision, `lo`/`hi` are the nibbles of one byte):

  type  bytes/elements  fields
  Q4_0   18/32   h d; 16 bytes: element j in lo, j + 16 in hi
  Q4_1   20/32   h d; h m; the same
  Q5_0   22/32   h d; 32 bits: bit j is bit 4 of element j; 16 bytes as above
  Q5_1   24/32   h d; h m; the same
  Q8_0   34/32   h d; 32 signed bytes
  Q4_K  144/256  h d; h dmin; 12 bytes of 6-bit scales and mins; 4 runs of 32 bytes: 32 elements in lo, the next in hi
  Q5_K  176/256  h d; h dmin; 12 bytes; 32 bytes: bit s of byte e is bit 4 of element e of sub-block s; as Q4_K
  Q6_K  210/256  128 bytes of low nibbles; 64 bytes of 2-bit high parts; 16 signed scales; h d

Every bit of these blocks means something, so `pack(unpack(b)) == b` holds for all bytes, not-a-number scales included.

A codec is declared as a subclass that names its type; sizes come from `core/schemes.py: GGML_BLOCKS`.

Not here: choosing codes (quantize/), values (tensors/qtensor.py: decode), containers (gguf_file.py).
Sources: llama.cpp ggml/src/ggml-common.h (block structs), ggml-quants.c (dequantize_row_*, get_scale_min_k4).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError, UnsupportedError, did_you_mean
from bitwright.core.schemes import GGML_BLOCKS, GgmlScheme
from bitwright.tensors.qtensor import Array, QTensor

Bytes = NDArray[np.uint8]
Fields = Mapping[str, Array]


class BlockCodec(ABC):
    """One block type. `fields` gives (name, values per block, dtype); codes hold `bits` bits.

    `pack_blocks` and `unpack_blocks` see flat blocks: codes [blocks, elements], fields [blocks, values per block].
    """

    known: ClassVar[dict[str, type[BlockCodec]]] = {}
    type: ClassVar[str]
    fields: ClassVar[tuple[tuple[str, int, str], ...]]
    bits: ClassVar[int]
    codes_dtype: ClassVar[str] = "u1"

    def __init_subclass__(cls, *, type: str | None = None) -> None:
        if type is not None:
            cls.type = type
            BlockCodec.known[type] = cls

    @classmethod
    @abstractmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        """The parts of each block in order, [blocks, bytes] each."""

    @classmethod
    @abstractmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        """Codes and fields of blocks [blocks, bytes per block]."""


def pack(q: QTensor) -> bytes:
    """The tensor's bytes, row after row."""
    assert isinstance(q.scheme, GgmlScheme), q.scheme
    codec = _codec(q.scheme.type)
    elements, size = GGML_BLOCKS[codec.type]
    rows, columns = q.shape
    assert columns % elements == 0, f"{columns} columns do not fill blocks of {elements}"
    blocks = rows * columns // elements
    codes = np.ascontiguousarray(q.codes, dtype=codec.codes_dtype).view(np.uint8).reshape(blocks, elements)
    assert codec.bits == 8 or not blocks or int(codes.max()) < 1 << codec.bits, (
        f"a code needs more than {codec.bits} bits"
    )
    fields: dict[str, Array] = {}
    for name, count, dtype in codec.fields:
        field = np.ascontiguousarray(q.fields[name])
        assert field.dtype == np.dtype(dtype), f"{name} is {field.dtype}, expected {dtype}"
        fields[name] = field.reshape(blocks, count)
    packed = np.concatenate(codec.pack_blocks(codes, fields), axis=1)
    assert packed.shape == (blocks, size)
    return packed.tobytes()


def unpack(data: bytes | memoryview | Bytes, type: str, rows: int, columns: int) -> QTensor:
    """Codes and scales of a `rows x columns` tensor.

    Raises `UnsupportedError` for a type without a codec and `InputError` when the bytes are too few or too many.
    """
    codec = _codec(type)
    elements, size = GGML_BLOCKS[type]
    raw = np.frombuffer(data, dtype=np.uint8)
    if columns % elements or raw.size != rows * (columns // elements) * size:
        raise InputError(
            f"{raw.size} bytes cannot be a {rows} x {columns} tensor of {type} ({size} bytes per {elements} elements)",
            hint="the file is damaged, or its header does not belong to its data",
        )
    codes, fields = codec.unpack_blocks(raw.reshape(-1, size))
    return QTensor(
        scheme=GgmlScheme(type=type),
        codes=codes.reshape(rows, columns),
        fields={name: np.ascontiguousarray(field).reshape(rows, -1) for name, field in fields.items()},
    )


def _codec(type: str) -> type[BlockCodec]:
    if type not in BlockCodec.known:
        raise UnsupportedError(f"no codec for ggml type `{type}`", hint=did_you_mean(type, sorted(BlockCodec.known)))
    return BlockCodec.known[type]


class _Plain(BlockCodec):
    """Blocks of 32: half-precision scalars, the fifth bits if any, nibbles with halves apart."""

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        parts = [_bytes(fields[name]) for name, _, _ in cls.fields]
        if cls.bits == 5:
            parts.append(np.packbits(codes >> 4, axis=1, bitorder="little"))
        parts.append(_pack_nibbles(codes, run=16))
        return parts

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        fields: dict[str, Array] = {}
        for at, (name, _, _) in enumerate(cls.fields):
            fields[name] = _halves(blocks[:, 2 * at : 2 * at + 2])
        codes = _unpack_nibbles(blocks[:, -16:], run=16)
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
        return [_bytes(fields["d"]), codes]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        return np.ascontiguousarray(blocks[:, 2:]).view(np.int8), {"d": _halves(blocks[:, :2])}


class _SuperBlock(BlockCodec):
    """Q4_K and Q5_K: eight sub-blocks of 32 with 6-bit scales and mins."""

    fields = (("d", 1, "<f2"), ("dmin", 1, "<f2"), ("scales", 8, "u1"), ("mins", 8, "u1"))

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        parts = [
            _bytes(fields["d"]),
            _bytes(fields["dmin"]),
            _pack_six_bits(_bytes(fields["scales"]), _bytes(fields["mins"])),
        ]
        if cls.bits == 5:
            high = np.packbits(codes.reshape(-1, 8, 32) >> 4, axis=1, bitorder="little")
            parts.append(high.reshape(-1, 32))
        parts.append(_pack_nibbles(codes, run=32))
        return parts

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        scales, mins = _unpack_six_bits(blocks[:, 4:16])
        codes = _unpack_nibbles(blocks[:, -128:], run=32)
        if cls.bits == 5:
            high = np.unpackbits(blocks[:, 16:48].reshape(-1, 1, 32), axis=1, bitorder="little")
            codes |= high.reshape(-1, 256) << 4
        return codes, {"d": _halves(blocks[:, :2]), "dmin": _halves(blocks[:, 2:4]), "scales": scales, "mins": mins}


class Q4_K(_SuperBlock, type="Q4_K"):  # noqa: N801
    bits = 4


class Q5_K(_SuperBlock, type="Q5_K"):  # noqa: N801
    bits = 5


class Q6_K(BlockCodec, type="Q6_K"):  # noqa: N801
    """Two halves of 128 elements; each is four runs of 32 that share 64 low bytes and 32 high bytes."""

    fields = (("d", 1, "<f2"), ("scales", 16, "i1"))
    bits = 6
    SHIFTS: ClassVar[Bytes] = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)

    @classmethod
    def pack_blocks(cls, codes: Bytes, fields: Fields) -> list[Bytes]:
        runs = codes.reshape(-1, 2, 4, 32)
        low = _pack_nibbles(codes, run=64)
        high = np.bitwise_or.reduce((runs >> 4) << cls.SHIFTS, axis=2)
        return [low, high.reshape(-1, 64), _bytes(fields["scales"]), _bytes(fields["d"])]

    @classmethod
    def unpack_blocks(cls, blocks: Bytes) -> tuple[Array, dict[str, Array]]:
        codes = _unpack_nibbles(blocks[:, :128], run=64)
        high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> cls.SHIFTS) & 3
        codes |= high.reshape(-1, 256) << 4
        return codes, {
            "scales": np.ascontiguousarray(blocks[:, 192:208]).view(np.int8),
            "d": _halves(blocks[:, 208:210]),
        }


def _bytes(field: Array) -> Bytes:
    return np.ascontiguousarray(field).view(np.uint8)


def _halves(raw: Bytes) -> Array:
    return np.ascontiguousarray(raw).view("<f2")


def _pack_nibbles(codes: Bytes, *, run: int) -> Bytes:
    """Pairs of `run` elements: the first run in the low nibbles, the second in the high ones. Bits above 4 fall off."""
    pairs = codes.reshape(codes.shape[0], -1, 2, run)
    packed = (pairs[:, :, 0] & 15) | (pairs[:, :, 1] << 4)
    return np.asarray(packed.reshape(codes.shape[0], -1), dtype=np.uint8)


def _unpack_nibbles(packed: Bytes, *, run: int) -> Bytes:
    runs = packed.reshape(packed.shape[0], -1, run)
    codes = np.empty((packed.shape[0], runs.shape[1], 2, run), dtype=np.uint8)
    np.bitwise_and(runs, 15, out=codes[:, :, 0])
    np.right_shift(runs, 4, out=codes[:, :, 1])
    return codes.reshape(packed.shape[0], -1)


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
