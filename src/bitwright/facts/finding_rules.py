"""A rule that findings are made by: what it says and how it is mended, with places that the check fills in.

Not here: the rows (lint_rules.py, doctor_rules.py), what breaks a rule (planner/lint/, evaluation/).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from bitwright.core.documents import Record
from bitwright.core.findings import Finding, Severity

F = TypeVar("F", bound=Finding)


class FindingRule(Record, frozen=True, kw_only=True):
    """`says` and `fix` have places in braces."""

    id: str
    severity: Severity
    says: str
    fix: str
    source: str


def found(kind: type[F], rule: FindingRule, where: str, words: Mapping[str, object], **more: Any) -> F:
    """A finding by the rule, its places filled in; `more` are fields that other findings have not."""
    return kind(
        rule=rule.id,
        severity=rule.severity,
        where=where,
        says=rule.says.format(**words),
        fix=rule.fix.format(**words),
        source=rule.source,
        **more,
    )
