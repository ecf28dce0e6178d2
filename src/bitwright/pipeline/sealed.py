"""Arrays on disk that end with their own SHA-256, so that unfinished work is checked before it is gone on with.

Why behind the data and not beside it: one file is written by one rename, and a kill cannot part an array from its
hash. numpy's and zip's readers stop before the 32 bytes.

Not here: the artifact itself, whose hashes are in `job.json` (job.py).
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.atomic import atomic_file, sha256_file
from bitwright.core.errors import MismatchError, from_os_error

SEAL_BYTES = 32
CHUNK = 1 << 22


def save_array(path: Path, values: NDArray[Any]) -> None:
    """Write one array, atomically. Raises `EnvironmentFault` for a full disk."""
    with atomic_file(path) as handle:
        np.save(handle, values, allow_pickle=False)
        handle.flush()
        handle.write(bytes.fromhex(sha256_file(Path(handle.name))))


def save_arrays(path: Path, arrays: dict[str, NDArray[np.float32]]) -> None:
    """Write several arrays under their names, atomically."""
    whole = io.BytesIO()
    np.savez(whole, **arrays)  # type: ignore[arg-type]
    data = whole.getvalue()
    with atomic_file(path) as handle:
        handle.write(data + hashlib.sha256(data).digest())


def load_array(path: Path, work: Path) -> NDArray[Any]:
    """What `save_array` wrote. Raises `MismatchError` when the file is not that; `work` is what to remove then."""
    check_seal(path, work)
    try:
        loaded: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _other(path, work) from error
    return loaded


def load_arrays(path: Path, work: Path) -> dict[str, NDArray[np.float32]]:
    """What `save_arrays` wrote; errors as in `load_array`."""
    check_seal(path, work)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise _other(path, work) from error


def check_seal(path: Path, work: Path) -> None:
    """Hold the file against the hash at its end, a piece in memory at a time; errors as in `load_array`."""
    digest = hashlib.sha256()
    try:
        left = path.stat().st_size - SEAL_BYTES
        with open(path, "rb") as handle:
            while left > 0 and (chunk := handle.read(min(CHUNK, left))):
                digest.update(chunk)
                left -= len(chunk)
            seal = handle.read()
    except FileNotFoundError as error:
        raise MismatchError(
            f"`{path}` is missing from an unfinished run", hint=f"remove `{work}` to start anew"
        ) from error
    except OSError as error:
        raise from_os_error(error, path) from error
    if seal != digest.digest():
        raise _other(path, work)


def _other(path: Path, work: Path) -> MismatchError:
    return MismatchError(f"`{path}` is not what the unfinished run wrote", hint=f"remove `{work}` to start anew")
