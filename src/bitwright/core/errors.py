"""Everything that can go wrong for a user, on one screen.

BitwrightError
├── UsageError             exit 2   the request is wrong: an unknown flag value, a group size that does not divide
│   └── UnsupportedError   exit 2   a sound request that this version cannot serve: architecture, scheme, format
├── InputError             exit 2   a file is missing, truncated, inconsistent, or holds values that are not finite
│   └── MismatchError      exit 2   two inputs that do not belong together: another plan, another model, another text
└── EnvironmentFault       exit 3   the machine: full or read-only disk, busy port, missing engine or package, no memory

Each message is one line that says what, where, the value, and what was expected. `hint` says what to do next.
`assert` is for our own mistakes; these classes are for the user's and the machine's.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import ClassVar

EXIT_DONE = 0
EXIT_GATE_FAILED = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_INCONCLUSIVE = 4


class BitwrightError(Exception):
    """Base of every error that a user may see.

    `code` is stable and documented in docs/errors.md; `exit_code` is what the command returns.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_USAGE

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(BitwrightError):
    """The request is wrong as written."""

    code = "usage"


class UnsupportedError(UsageError):
    """The request is sound, but this version has no way to serve it."""

    code = "unsupported"


class InputError(BitwrightError):
    """A file that the user gave is missing, damaged, or not what its name says."""

    code = "input"


class MismatchError(InputError):
    """Two things that were given together do not belong together."""

    code = "mismatch"


class EnvironmentFault(BitwrightError):
    """The machine cannot do it: disk, memory, port, missing package."""

    code = "environment"
    exit_code = EXIT_ENVIRONMENT


def from_os_error(error: OSError, path: Path | str) -> BitwrightError:
    """Turn the operating system's refusal into one line with a hint. The caller raises it `from error`."""
    where = f"`{path}`"
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return EnvironmentFault(
                f"no space left on the disk that holds {where}", hint="free some space, or choose another --out"
            )
        case errno.EFBIG:
            return EnvironmentFault(
                f"{where} would be larger than this system lets a file be",
                hint="raise the limit (`ulimit -f`), or choose an --out on a file system that takes larger files",
            )
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return EnvironmentFault(
                f"cannot write {where}: {error.strerror}", hint="choose a folder that you may write to"
            )
        case errno.ENOENT:
            return InputError(f"{where} does not exist", hint="check the path")
        case errno.ENOTDIR | errno.EEXIST:
            return UsageError(
                f"{where} is in the way: a file stands where a folder is needed", hint="choose another --out"
            )
        case errno.EISDIR:
            return InputError(f"{where} is a folder, a file was expected", hint="check the path")
        case _:
            return EnvironmentFault(f"{where}: {error.strerror or error}")


def did_you_mean(name: str, known: list[str]) -> str:
    """The hint for an unknown name: the nearest known one if there is one, and the whole list."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    listing = ", ".join(known)
    return f"did you mean `{near[0]}`? known: {listing}" if near else f"known: {listing}"


def nearest(name: str, known: list[str], listing: str) -> str:
    """The hint for an unknown name where the known ones are too many to list; `listing` says where they stand."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean `{near[0]}`? {listing}" if near else listing
