"""A file whose every byte is placed before the first tensor is solved.

Both containers that we write, GGUF and safetensors, are a header followed by tensor data at offsets that follow from
names, shapes and types alone. So the plan fixes the file: space is reserved at the start (a full disk is found before
an hour of work), blocks are written in any order, and a resumed run fills the same bytes.

Not here: what the header says (ggml/file.py, compressed/writer.py), when to write (pipeline/).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitwright.core.plan import TensorPlan
from bitwright.tensors.qtensor import QTensor

CAST_PIECE = 1 << 16  # elements whose temporaries stay in the second-level cache


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Where one stored tensor lies, in bytes from the start of the file."""

    offset: int
    bytes: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FileLayout:
    """One file: header bytes at 0, regions behind it, `total_bytes` in all. Bytes in no region are zero."""

    name: str
    header: bytes
    regions: Mapping[str, Region]
    total_bytes: int
    data_start: int  # first byte after header and padding; artifact hashes of GGUF begin here


class ArtifactWriter(Protocol):
    """How one artifact format wants its files. Writers never round."""

    def layouts(self) -> tuple[FileLayout, ...]:
        """All weight files."""
        ...

    def encode(self, entry: TensorPlan, value: QTensor | NDArray[Any]) -> dict[str, bytes]:
        """Region name → bytes. `value` is a `QTensor`, or a float32 array for float schemes (cast exactly here)."""
        ...

    def rows_apart(self, entry: TensorPlan) -> bool:
        """Whether regions of this tensor hold its rows one behind the other. `encode` then also takes some rows, whose
        bytes follow those of the rows before; a region that belongs to the whole matrix comes out whole each time."""
        ...

    def constants(self) -> dict[str, bytes]:
        """Regions that come from no tensor of the checkpoint (rotary factors of GGUF), by region name."""
        ...

    def sidecars(self) -> dict[str, bytes]:
        """Small files beside the weights: config, tokenizer, model card."""
        ...


def float_bytes(values: NDArray[np.float32], dtype: str) -> bytes:
    """Little-endian bytes of f32, f16 or bf16; bf16 rounds to nearest even."""
    values = np.ascontiguousarray(values, dtype="<f4")
    match dtype:
        case "f32":
            return values.tobytes()
        case "f16":
            return values.astype("<f2").tobytes()
        case "bf16":
            return _bfloat16(values).tobytes()
        case _:
            raise AssertionError(dtype)


def is_exact(values: NDArray[np.float32], dtype: str) -> bool:
    """Whether every value survives the cast to `dtype`."""
    match dtype:
        case "f32":
            return True
        case "f16":
            with np.errstate(over="ignore"):
                return bool((values.astype(np.float16).astype(np.float32) == values).all())
        case _:
            return not (values.view(np.uint32) & 0xFFFF).any()


def _bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The upper halves, rounded to nearest even; piece by piece, because four temporaries of a head outgrow caches."""
    bits = values.view("<u4").reshape(-1)
    halves: NDArray[np.uint16] = np.empty(bits.shape, dtype="<u2")
    for start in range(0, len(bits), CAST_PIECE):
        piece = bits[start : start + CAST_PIECE]
        rounded = piece >> 16
        rounded &= 1
        rounded += 0x7FFF
        rounded += piece
        rounded >>= 16
        halves[start : start + CAST_PIECE] = rounded
    return halves
