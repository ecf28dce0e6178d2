"""What a block codec of ggml is, and the tools that all of them share: bytes, half precision, nibbles, pairs of bits.

A codec is declared as a subclass that names its type; sizes come from `core/schemes.py: GGML_BLOCKS`.

Not here: the codecs (blocks_32.py, blocks_256.py), whole tensors (blocks.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

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
    pairs = codes.reshape(codes.shape[0], -1, 2, run)
    packed = (pairs[:, :, 0] & 15) | (pairs[:, :, 1] << 4)
    return np.asarray(packed.reshape(codes.shape[0], -1), dtype=np.uint8)


def unpack_nibbles(packed: Bytes, *, run: int) -> Bytes:
    runs = packed.reshape(packed.shape[0], -1, run)
    codes = np.empty((packed.shape[0], runs.shape[1], 2, run), dtype=np.uint8)
    np.bitwise_and(runs, 15, out=codes[:, :, 0])
    np.right_shift(runs, 4, out=codes[:, :, 1])
    return codes.reshape(packed.shape[0], -1)


def pack_pairs(codes: Bytes) -> Bytes:
    """Codes of 2 bits: per 128 elements, byte `l` of 32 holds elements l, l + 32, l + 64, l + 96, the first lowest."""
    return _gather(codes.reshape(-1, 4, 32), 2).reshape(codes.shape[0], -1)


def pack_bits(codes: Bytes) -> Bytes:
    """Codes of 1 bit: byte `e` of 32 holds elements e, e + 32 … e + 224, the first lowest."""
    return _gather(codes.reshape(-1, 8, 32), 1).reshape(codes.shape[0], -1)


def _gather(runs: Bytes, bits: int) -> Bytes:
    """[N, runs, 32] → [N, 32]. Run by run: `packbits` and `reduce` along an inner axis take five times as long."""
    packed = runs[:, 0].copy()
    for place in range(1, runs.shape[1]):
        packed |= runs[:, place] << np.uint8(bits * place)
    return packed


def unpack_pairs(packed: Bytes) -> Bytes:
    runs = (packed.reshape(packed.shape[0], -1, 1, 32) >> PAIR_SHIFTS) & 3
    return np.asarray(runs.reshape(packed.shape[0], -1), dtype=np.uint8)
