"""The rules of `bitwright doctor`: what each says, how it comes about, how it is mended. Rows: doctor_rules.toml.

Not here: what fires a rule (evaluation/).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from bitwright.core.findings import Diagnosis
from bitwright.facts.finding_rules import FindingRule, found
from bitwright.facts.rows import read_rows


class DoctorRule(FindingRule, frozen=True, kw_only=True):
    """One row; `cause` has places in braces too."""

    cause: str


@functools.cache
def doctor_rules() -> dict[str, DoctorRule]:
    """By id, in the file's order."""
    return {row.id: row for row in read_rows("doctor_rules.toml", "rule", DoctorRule)}


def diagnosis(
    rule: str, where: str, /, *, evidence: Mapping[str, float] | None = None, part: str = "decoder", **words: object
) -> Diagnosis:
    """A finding by the rule, its places filled in."""
    row = doctor_rules()[rule]
    cause = row.cause.format(**words)
    return found(Diagnosis, row, where, words, evidence=dict(evidence or {}), cause=cause, part=part)
