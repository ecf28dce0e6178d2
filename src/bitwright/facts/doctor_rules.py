"""The rules of `bitwright doctor`: what each says, how it comes about, how it is mended. Rows: doctor_rules.toml.

Not here: what fires a rule (evaluation/).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from bitwright.core.documents import Record
from bitwright.core.findings import Diagnosis, Severity
from bitwright.facts.rows import read_rows


class DoctorRule(Record, frozen=True, kw_only=True):
    """`says` and `fix` have places in braces, which the check fills in."""

    id: str
    severity: Severity
    says: str
    cause: str
    fix: str
    source: str


@functools.cache
def doctor_rules() -> dict[str, DoctorRule]:
    """By id, in the file's order."""
    return {row.id: row for row in read_rows("doctor_rules.toml", "rule", DoctorRule)}


def diagnosis(
    rule: str, where: str, /, *, evidence: Mapping[str, float] | None = None, part: str = "decoder", **words: object
) -> Diagnosis:
    """A finding by the rule, its places filled in."""
    row = doctor_rules()[rule]
    return Diagnosis(
        rule=rule,
        severity=row.severity,
        where=where,
        says=row.says.format(**words),
        fix=row.fix.format(**words),
        source=row.source,
        evidence=dict(evidence or {}),
        cause=row.cause.format(**words),
        part=part,
    )
