"""Where answers differ from the handbooks' on purpose, from corrections.toml. Tests and docs read it, plans do not.

Not here: how documents that disagree with each other were resolved (decision_rules.toml, `resolution`).
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.facts.rows import read_rows


class Correction(Record, frozen=True, kw_only=True):
    """One row; the head of the file says what each field means."""

    id: str
    where: str
    says: str
    answer: str
    because: str
    source: str


@functools.cache
def corrections() -> dict[str, Correction]:
    """The table, by id."""
    return {row.id: row for row in read_rows("corrections.toml", "correction", Correction)}
