"""Hidden states of all calibration windows at one place in the model, or gradients there, in a file.

They are read some windows at a time and written batch by batch, so memory does not grow with the number of windows; a
run that goes on after a kill opens the same file. Plain reads and not a mapped file: mapped pages count as memory of
this process.

Not here: which file belongs to the state of a run (job.py), what is in the files of a backward pass (sensitivity.py).
Dimension key: W windows · T tokens · H hidden
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.atomic import atomic_file
from bitwright.core.errors import from_os_error
from bitwright.pipeline.job import HiddenFile


class StoredStates:
    """[W, T, H] in one file, float32, or bfloat16 as the int16 of its bits: numpy knows none."""

    def __init__(self, path: Path) -> None:
        """Open what was written; its hash has been checked."""
        self._path = path
        try:
            with open(path, "rb") as handle:
                np.lib.format.read_magic(handle)
                shape, _, self._stored = np.lib.format.read_array_header_1_0(handle)
                self._start = handle.tell()
        except OSError as error:
            raise from_os_error(error, path) from error
        self.windows, self.length, self.width = shape
        self.item_bytes = int(self._stored.itemsize)

    def batches(self, windows: int, *, dtype: torch.dtype | None = None) -> Sequence[torch.Tensor]:
        """Tensors [W, T, H] of so many windows each, read when they are asked for; as stored, or in another type."""
        return _Batches(self, windows, dtype)

    def read(self, start: int, stop: int) -> torch.Tensor:
        """Windows `start` to `stop`."""
        window = self.length * self.width
        count = min(stop, self.windows) - start
        place = self._start + start * window * self.item_bytes
        try:
            values = np.fromfile(self._path, dtype=self._stored, count=count * window, offset=place)
        except OSError as error:
            raise from_os_error(error, self._path) from error
        held = torch.from_numpy(values.reshape(count, self.length, self.width))
        return held.view(torch.bfloat16) if held.dtype == torch.int16 else held


class HiddenStates(StoredStates):
    """Hidden states behind a unit of a run."""

    def __init__(self, folder: Path, file: HiddenFile) -> None:
        """Open those in the work directory `folder`."""
        super().__init__(file.path(folder))
        self._folder, self.file = folder, file

    def followed_by(self, parts: Iterable[torch.Tensor]) -> HiddenStates:
        """Write those behind the next unit, [W, T, H] batch by batch, and open them. This file stays."""
        return write_hidden(self._folder, self.file.unit + 1, self.windows, parts)


class _Batches(Sequence[torch.Tensor]):
    def __init__(self, states: StoredStates, windows: int, dtype: torch.dtype | None) -> None:
        self._states, self._windows, self._dtype = states, windows, dtype

    def __len__(self) -> int:
        return -(-self._states.windows // self._windows)

    @overload
    def __getitem__(self, index: int) -> torch.Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[torch.Tensor]: ...
    def __getitem__(self, index: int | slice) -> torch.Tensor | Sequence[torch.Tensor]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = self._states.read(index * self._windows, (index + 1) * self._windows)
        return part if self._dtype is None else part.to(self._dtype)


class _Writer:
    """Batches one behind the other, under one header."""

    def __init__(self, handle: IO[bytes], windows: int) -> None:
        self._handle, self._windows = handle, windows
        self.written, self.digest = 0, hashlib.sha256()

    def add(self, part: torch.Tensor) -> None:
        """Write the next windows, [W, T, H]."""
        stored = _to_stored(part)
        header = b"" if self.written else _header((self._windows, *stored.shape[1:]), stored.dtype)
        for piece in (header, stored.tobytes()):
            self._handle.write(piece)
            self.digest.update(piece)
        self.written += len(part)


@contextlib.contextmanager
def writing_states(path: Path, windows: int, *, sealed: bool = False) -> Iterator[_Writer]:
    """Write the states of `windows` windows batch by batch; the file has its name when all have come.

    A `sealed` one ends with its own SHA-256 (sealed.py).
    """
    with atomic_file(path) as handle:
        writer = _Writer(handle, windows)
        yield writer
        assert writer.written == windows, f"{writer.written} of {windows} windows came"
        if sealed:
            handle.write(writer.digest.digest())


def write_hidden(folder: Path, unit: int, windows: int, parts: Iterable[torch.Tensor]) -> HiddenStates:
    """Write those of `windows` windows behind unit `unit`, [W, T, H] batch by batch, and open them."""
    with writing_states(HiddenFile(unit=unit, sha256="").path(folder), windows) as writer:
        for part in parts:
            writer.add(part)
    return HiddenStates(folder, HiddenFile(unit=unit, sha256=writer.digest.hexdigest()))


def _header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    header = io.BytesIO()
    described = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(dtype)}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def _to_stored(hidden: torch.Tensor) -> NDArray[Any]:
    hidden = hidden.contiguous()
    stored: NDArray[Any] = (hidden.view(torch.int16) if hidden.dtype == torch.bfloat16 else hidden).numpy()
    return stored
