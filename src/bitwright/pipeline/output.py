"""The artifact while it grows: files of full size under `.partial`, filled region by region, published at the end.

Space is reserved before the first tensor is solved, so a full disk is found in the first second. Regions are written
in place at offsets that the layout fixed; a region written twice holds the same bytes. A job keeps the SHA-256 of each
region, which is held against the disk before an interrupted run goes on. It is read back from the file when it is asked
for: a run of a second never asks, and hashing is a tenth of its work.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from bitwright.core.atomic import PARTIAL_SUFFIX, publish, sha256_file
from bitwright.core.errors import MismatchError, from_os_error
from bitwright.formats.layout import FileLayout

PIECE = 1 << 22  # bytes read at a time


class GrowingArtifact:
    """Open `.partial` files in `work`, one per layout. Use as a context manager."""

    def __init__(self, layouts: Sequence[FileLayout], work: Path) -> None:
        self._layouts = layouts
        self._work = work
        self._open: dict[str, int] = {}
        self._place = {name: (layout.name, region) for layout in layouts for name, region in layout.regions.items()}
        self._written: list[str] = []  # regions, since digests were taken
        self._begun: dict[str, int] = {}  # bytes of regions that came in part

    def __enter__(self) -> Self:
        """Reserve space and write headers. Raises `EnvironmentFault` when the disk is full."""
        for layout in self._layouts:
            path = self._path(layout)
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
                self._open[layout.name] = handle
                _reserve(handle, layout.total_bytes, path)
                os.pwrite(handle, layout.header, 0)
            except OSError as error:
                self._close()
                raise from_os_error(error, path) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def write(self, regions: Mapping[str, bytes]) -> None:
        """Fill regions, or the next part of them. They are on disk only after `sync`."""
        for name, data in regions.items():
            file, region = self._place[name]
            at = 0 if len(data) == region.bytes else self._begun.get(name, 0)
            assert at + len(data) <= region.bytes, f"{name}: {at} + {len(data)} bytes for a region of {region.bytes}"
            view = memoryview(data)
            try:
                written = 0
                while written < len(view):
                    written += os.pwrite(self._open[file], view[written:], region.offset + at + written)
            except OSError as error:
                raise from_os_error(error, self._work / file) from error
            if at + len(data) == region.bytes:
                self._begun.pop(name, None)
                self._written.append(name)
            else:
                self._begun[name] = at + len(data)

    def take_digests(self) -> dict[str, str]:
        """Region name → SHA-256 of what was written since the last call, as the file holds it."""
        taken = {name: self._digest(name) for name in self._written}
        self.forget()
        return taken

    def forget(self) -> None:
        """Take no digests of what was written so far."""
        assert not self._begun, f"only a part of {', '.join(self._begun)} was written"
        self._written.clear()

    def check(self, digests: Mapping[str, str]) -> None:
        """Hold regions on disk against digests. Raises `MismatchError` at the first that holds something else."""
        for name, digest in digests.items():
            if self._digest(name) != digest:
                raise MismatchError(
                    f"`{name}` in `{self._work / self._place[name][0]}{PARTIAL_SUFFIX}` "
                    "is not what the unfinished run wrote",
                    hint=f"remove `{self._work}` to start anew",
                )

    def _digest(self, name: str) -> str:
        file, region = self._place[name]
        found = hashlib.sha256()
        try:
            for at in range(0, region.bytes, PIECE):
                found.update(os.pread(self._open[file], min(PIECE, region.bytes - at), region.offset + at))
        except OSError as error:
            raise from_os_error(error, self._work / file) from error
        return found.hexdigest()

    def sync(self) -> None:
        """Wait until everything written is on disk."""
        for name, handle in self._open.items():
            try:
                os.fsync(handle)
            except OSError as error:
                raise from_os_error(error, self._work / name) from error

    def sync_and_digest(self) -> dict[str, str]:
        """File name → SHA-256 of its data, taken while the disk works; then everything is on disk."""
        with ThreadPoolExecutor(1) as apart:
            synced = apart.submit(self.sync)
            digests = {
                layout.name: sha256_file(self._path(layout), start=layout.data_start) for layout in self._layouts
            }
            synced.result()
        return digests

    def _path(self, layout: FileLayout) -> Path:
        return partial_path(layout, self._work)

    def _close(self) -> None:
        while self._open:
            _, handle = self._open.popitem()
            os.close(handle)


def partial_path(layout: FileLayout, work: Path) -> Path:
    """Where a file grows."""
    return work / (layout.name + PARTIAL_SUFFIX)


def publish_all(layouts: Sequence[FileLayout], work: Path, out: Path) -> None:
    """Give every finished file its final name in `out`. Files that a killed run had already moved are left alone."""
    for layout in layouts:
        path = partial_path(layout, work)
        if not path.exists() and (out / layout.name).exists():
            continue
        try:
            publish(path, out / layout.name)
        except OSError as error:
            raise from_os_error(error, out / layout.name) from error


def _reserve(handle: int, size: int, path: Path) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        os.ftruncate(handle, size)
        return
    if shutil.disk_usage(path.parent).free < size - os.fstat(handle).st_size:  # macOS has no posix_fallocate
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.ftruncate(handle, size)
