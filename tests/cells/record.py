"""docs/reference/cells.json: what every cell gave, for the page that `scripts/make_cells_docs.py` makes of it.

Cells that a run leaves out keep what an earlier run found; those that are no longer in the table go.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bitwright.core.atomic import write_bytes
from cells.table import Cell, cells

RECORD = Path(__file__).parents[2] / "docs" / "reference" / "cells.json"
VARIABLE = "BITWRIGHT_RECORD_CELLS"  # set by `make cells`


class Result(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One cell: the distance of the loader's logits from ours, and of ours from the model's; or a refusal."""

    format: str
    type: str
    method: str
    loader: str
    version: str
    distance: float | None = None
    moved: float | None = None
    limit: float | None = None
    refused: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.format, self.type, self.method, self.loader


def result(cell: Cell, version: str, **found: object) -> Result:
    """A result under the cell's names."""
    format, type, method, loader = cell.key
    return Result(format=format, type=type, method=method, loader=loader, version=version, **found)


def read() -> list[Result]:
    """What is recorded, in the table's order."""
    return msgspec.json.decode(RECORD.read_bytes(), type=list[Result]) if RECORD.exists() else []


def merge(found: Iterable[Result]) -> None:
    """Write the record anew."""
    known = {entry.key: entry for entry in (*read(), *found)}
    kept = [known[cell.key] for cell in cells() if cell.key in known]
    lines = ",\n".join(msgspec.json.encode(entry).decode() for entry in kept)
    write_bytes(RECORD, f"[\n{lines}\n]\n".encode())
