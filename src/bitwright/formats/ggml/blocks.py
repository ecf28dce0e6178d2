"""Tensors of ggml: the codes and scales of a `QTensor` laid into bytes, and read back. Nothing is rounded here.

A row of `I` inputs is cut into blocks of 32 or 256 elements; a block is stored whole, blocks follow each other in row
order, all little-endian. The byte tables stand with the codecs (blocks_32.py, blocks_256.py). Every bit of
these blocks means something, so `pack(unpack(b)) == b` holds for all bytes, not-a-number scales included.

Not here: choosing codes (quantize/), values (tensors/qtensor.py: decode), containers (file.py).
"""

from __future__ import annotations

import numpy as np

from bitwright.core.errors import InputError, UnsupportedError, did_you_mean
from bitwright.core.schemes import GGML_BLOCKS, GgmlScheme
from bitwright.formats.ggml import blocks_32, blocks_256
from bitwright.formats.ggml.codec import BlockCodec, Bytes
from bitwright.tensors.qtensor import Array, QTensor

CODEC_MODULES = (blocks_32, blocks_256)  # importing them declares their codecs


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
