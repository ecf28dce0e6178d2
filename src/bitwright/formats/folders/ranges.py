"""Where tensors lie in safetensors files, and their bytes as they stand there.

Why not `safetensors.safe_open`: it maps the file, and mapped pages count as memory of this process until the map is
closed; a plain read of one range keeps the peak at that range.

Not here: the container (safetensors_file.py), what the bytes mean (there by torch, in float_rows.py by numpy).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError, from_os_error
from bitwright.core.plan import TensorFacts
from bitwright.facts.stored_tensors import StoredPart


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor(StoredPart):
    """One entry of a header of a file that exists. `offset` counts from the start of the file."""

    offset: int = 0


def locate(folder: Path, tensors: Iterable[TensorFacts]) -> dict[str, StoredTensor]:
    """Where each tensor lies. `tensors` must be those of `facts.checkpoint.read_checkpoint`, all and in its order:
    it has checked that they tile the data of each file from its first byte to its last."""
    reached: dict[str, int] = {}
    places = {}
    for tensor in tensors:
        begin = reached.get(tensor.file) or _data_start(folder / tensor.file)
        places[tensor.name] = StoredTensor(name=tensor.name, dtype=tensor.dtype, shape=tensor.shape, offset=begin)
        reached[tensor.file] = begin + tensor.bytes
    return places


def _data_start(path: Path) -> int:
    try:
        with open(path, "rb") as handle:
            return 8 + int.from_bytes(handle.read(8), "little")
    except OSError as error:
        raise from_os_error(error, path) from error


def read_bytes(path: Path, entry: StoredTensor, start: int = 0, count: int | None = None) -> NDArray[np.uint8]:
    """Bytes of one tensor, all or `count` from its byte `start` on. Raises `InputError` if the file ends early."""
    count = entry.bytes - start if count is None else count
    raw = np.empty(count, dtype=np.uint8)
    try:
        with open(path, "rb", buffering=0) as handle:
            handle.seek(entry.offset + start)
            got = _read_into(handle, memoryview(raw.data))
    except OSError as error:
        raise from_os_error(error, path) from error
    if got != count:
        raise InputError(
            f"`{path}` is truncated: `{entry.name}` ends after {start + got} of {entry.bytes} bytes",
            hint="download or copy the file again",
        )
    return raw


def _read_into(handle: Any, view: memoryview) -> int:
    done = 0
    while done < len(view) and (count := handle.readinto(view[done:])):
        done += count
    return done
