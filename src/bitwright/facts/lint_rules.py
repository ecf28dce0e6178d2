"""The rules of `bitwright lint`: what each says, how it is mended, where it stands. The rows are lint_rules.toml.

Not here: what breaks a rule (planner/lint/).
"""

from __future__ import annotations

import functools

from bitwright.core.documents import Record
from bitwright.core.findings import Finding, Severity
from bitwright.facts.rows import read_rows


class LintRule(Record, frozen=True, kw_only=True):
    """`says` and `fix` have places in braces, which the check fills in."""

    id: str
    severity: Severity
    says: str
    fix: str
    source: str
    date: str


@functools.cache
def lint_rules() -> dict[str, LintRule]:
    """By id, in the file's order."""
    return {row.id: row for row in read_rows("lint_rules.toml", "rule", LintRule)}


def finding(rule: str, where: str, /, **words: object) -> Finding:
    """A finding by the rule, its places filled in."""
    row = lint_rules()[rule]
    return Finding(
        rule=rule,
        severity=row.severity,
        where=where,
        says=row.says.format(**words),
        fix=row.fix.format(**words),
        source=row.source,
    )
