"""Files appear whole or not at all: sibling temporary file, flush, fsync, one rename, fsync of the folder.

Why the sibling: a rename is atomic only inside one file system. Why fsync of the folder: the rename itself must
survive a power cut. Errors of the operating system leave as `BitwrightError` with the path in the message.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from bitwright.core.errors import from_os_error

PARTIAL_SUFFIX = ".partial"


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary sibling for binary writing; on a clean exit it takes the final name, else it is removed."""
    partial = path.with_name(path.name + PARTIAL_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        publish(partial, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # what refused the file may refuse its removal too
            partial.unlink(missing_ok=True)
        raise from_os_error(error, path) from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` under `path`, atomically."""
    with atomic_file(path) as handle:
        handle.write(data)


def publish(partial: Path, final: Path) -> None:
    """Give a finished, synced file its final name."""
    os.replace(partial, final)
    folder = os.open(final.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def sha256_file(path: Path, *, start: int = 0) -> str:
    """Hex SHA-256 of the file's bytes from offset `start` on."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            handle.seek(start)
            while chunk := handle.read(1 << 22):
                digest.update(chunk)
    except OSError as error:
        raise from_os_error(error, path) from error
    return digest.hexdigest()
