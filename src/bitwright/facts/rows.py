"""Facts as rows of TOML beside the code: read into records, unknown keys refused."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from bitwright.core.documents import Record

R = TypeVar("R", bound=Record)


def read_rows(file: str, table: str, kind: type[R]) -> tuple[R, ...]:
    """All rows of one array of tables, in file order. The files are ours: a broken one is our bug."""
    document = tomllib.loads((Path(__file__).parent / file).read_text(encoding="utf-8"))
    return msgspec.convert(tuple(document[table]), tuple[kind, ...], strict=True)  # type: ignore[valid-type]
