"""What a block codec of ggml is, and the tools that all of them share: bytes, half precision, nibbles, pairs of bits.

A codec is declared as a subclass that names its type; sizes come from `core/schemes.py: GGML_BLOCKS`.

Not here: the codecs (blocks_32.py, blocks_256.py), whole tensors (blocks.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bitwright.tensors.qtensor import Array

Bytes = NDArray[np.uint8]
Fields = Mapping[str, Array]
PAIR_SHIFTS: Bytes = np.array([0, 2, 4, 6], dtype=np.uint8).reshape(1, 1, 4, 1)


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


def as_bytes(field: Array) -> Bytes:
    return np.ascontiguousarray(field).view(np.uint8)


def as_halves(raw: Bytes) -> Array:
    return np.ascontiguousarray(raw).view("<f2")


def pack_nibbles(codes: Bytes, *, run: int) -> Bytes:
    """Pairs of `run` elements: the first run in the low nibbles, the second in the high ones. Bits above 4 fall off."""
    pairs = _words(codes.reshape(codes.shape[0], -1, 2, run))
    nibbles = pairs & pairs.dtype.type(int.from_bytes(b"\x0f" * pairs.itemsize, "little"))
    packed = nibbles[:, :, 1] << pairs.dtype.type(4)
    packed |= nibbles[:, :, 0]
    return np.asarray(packed.view(np.uint8).reshape(codes.shape[0], -1))


def unpack_nibbles(packed: Bytes, *, run: int) -> Bytes:
    runs = packed.reshape(packed.shape[0], -1, run)
    codes = np.empty((packed.shape[0], runs.shape[1], 2, run), dtype=np.uint8)
    np.bitwise_and(runs, 15, out=codes[:, :, 0])
    np.right_shift(runs, 4, out=codes[:, :, 1])
    return codes.reshape(packed.shape[0], -1)


def pack_pairs(codes: Bytes) -> Bytes:
    """Codes of 2 bits: per 128 elements, byte `l` of 32 holds elements l, l + 32, l + 64, l + 96, the first lowest."""
    return gather(codes.reshape(-1, 4, 32), 2).reshape(codes.shape[0], -1)


def pack_bits(codes: Bytes) -> Bytes:
    """Codes of 1 bit: byte `e` of 32 holds elements e, e + 32 … e + 224, the first lowest."""
    return gather(codes.reshape(-1, 8, 32), 1).reshape(codes.shape[0], -1)


def gather(runs: Bytes, bits: int) -> Bytes:
    """Codes [N, runs, bytes] in [N, bytes], the first run lowest. `packbits` and `reduce` take ten times as long."""
    words = _words(runs)
    packed = words[:, 0].copy()
    for place in range(1, words.shape[1]):
        packed |= words[:, place] << words.dtype.type(bits * place)
    return packed.view(np.uint8)


def _words(runs: Bytes) -> NDArray[np.unsignedinteger[Any]]:
    """Four or eight bytes at a time, where a run has them: shifts that keep every bit in its byte take half as long."""
    size = next(size for size in (8, 4, 1) if runs.shape[-1] % size == 0)
    return np.ascontiguousarray(runs).view(f"u{size}")


def unpack_pairs(packed: Bytes) -> Bytes:
    runs = (packed.reshape(packed.shape[0], -1, 1, 32) >> PAIR_SHIFTS) & 3
    return np.asarray(runs.reshape(packed.shape[0], -1), dtype=np.uint8)
