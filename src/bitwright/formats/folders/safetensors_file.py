"""The safetensors container, both ways: a file planned to the byte, and one tensor read by its offset.

    bytes 0..8       header length N, unsigned 64-bit little-endian
    bytes 8..8+N     JSON: name → {dtype, shape, data_offsets: [begin, end)}, padded with spaces to 8 bytes
    bytes 8+N..      tensor data, little-endian, row-major, without holes; offsets count from here

The checks on values (NaN, infinity) are here too, because they need the file's name for their message.

Not here: reading and distrusting headers (facts/checkpoint.py), reading ranges (ranges.py), which tensors there are
(checkpoint.py, compressed/writer.py).
Source: safetensors 0.8, README.md "Format" and safetensors/src/tensor.rs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bitwright.core.errors import InputError
from bitwright.facts.stored_tensors import StoredPart, header_bytes, placed
from bitwright.formats.folders.ranges import StoredTensor, read_bytes
from bitwright.formats.layout import FileLayout, Region

TORCH_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
ITEM_BYTES = {name: dtype.itemsize for name, dtype in TORCH_DTYPES.items()}
CHECK_SLICE = 1 << 20  # elements
CHECKED = ("F64", "F32", "F16", "BF16")  # kinds whose values must be finite


def plan_file(name: str, tensors: Sequence[StoredPart], metadata: Mapping[str, str]) -> FileLayout:
    """Place `tensors` in a file. Equal input, equal bytes."""
    ordered = placed(tensors)
    header = header_bytes(ordered, metadata)
    regions, position = {}, len(header)
    for part in ordered:
        regions[part.name] = Region(offset=position, bytes=part.bytes)
        position += part.bytes
    return FileLayout(name=name, header=header, regions=regions, total_bytes=position, data_start=len(header))


def read_rows(path: Path, entry: StoredTensor, start: int, stop: int) -> torch.Tensor:
    """Read rows `start` to `stop` of one tensor. Raises `InputError` as `read_tensor` does."""
    shape = (min(stop, entry.shape[0]) - start, *entry.shape[1:])
    row = entry.bytes // entry.shape[0]
    part = dataclasses.replace(entry, shape=shape, offset=entry.offset + start * row)
    return read_tensor(path, part, first_row=start)


def read_tensor(path: Path, entry: StoredTensor, *, first_row: int = 0) -> torch.Tensor:
    """Read one tensor, in its stored type; messages count its rows from `first_row`.

    Raises `InputError` if the file ends early or a float is not finite.
    """
    raw = torch.from_numpy(read_bytes(path, entry))
    tensor = raw.view(TORCH_DTYPES[entry.dtype]).reshape(entry.shape)
    if entry.dtype in CHECKED:
        check_finite(tensor, entry.name, path, first_row=first_row)
    return tensor


def check_finite(tensor: torch.Tensor, name: str, path: Path, *, first_row: int = 0) -> None:
    """Raise `InputError` with the count and the first place when the tensor holds NaN or infinity.

    Least and greatest value carry NaN and infinity along, ten times faster than `isfinite`, which also makes several
    temporaries; slices keep those small when there is something to count.
    """
    if not tensor.numel() or torch.isfinite(torch.stack(torch.aminmax(tensor))).all():
        return
    bad, first = 0, -1
    starts = range(0, tensor.numel(), CHECK_SLICE)
    for start, part in zip(starts, torch.split(tensor.view(-1), CHECK_SLICE), strict=True):
        lost = torch.nonzero(~torch.isfinite(part))
        if first < 0 and len(lost):
            first = start + int(lost[0])
        bad += len(lost)
    where = [int(index) for index in np.unravel_index(first, tensor.shape or (1,))]
    where[0] += first_row
    raise InputError(
        f"`{name}` in `{path}` holds {bad} of {tensor.numel()} values that are NaN or infinite, the first at {where}",
        hint="the checkpoint is damaged, or its training diverged; it cannot be quantized",
    )
