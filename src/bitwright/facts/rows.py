"""Facts as rows of TOML beside the code: read into records, unknown keys refused."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bitwright.core.documents import Record

R = TypeVar("R", bound=Record)


def read_rows(file: str, table: str, kind: type[R]) -> tuple[R, ...]:
    """All rows of one array of tables, in file order. The files are ours: a broken one is our bug."""
    return msgspec.convert(tuple(_document(file)[table]), tuple[kind, ...], strict=True)  # type: ignore[valid-type]


@functools.cache
def _document(file: str) -> dict[str, Any]:
    """Read once: some files hold five tables, and `plan` asks for all of them."""
    return tomllib.loads((Path(__file__).parent / file).read_text(encoding="utf-8"))
