"""The rules of `bitwright lint`: what each says, how it is mended, where it stands. The rows are lint_rules.toml.

Not here: what breaks a rule (planner/lint/).
"""

from __future__ import annotations

import functools

from bitwright.core.findings import Finding
from bitwright.facts.finding_rules import FindingRule, found
from bitwright.facts.rows import read_rows


class LintRule(FindingRule, frozen=True, kw_only=True):
    """One row; `date` is when its source was read."""

    date: str


@functools.cache
def lint_rules() -> dict[str, LintRule]:
    """By id, in the file's order."""
    return {row.id: row for row in read_rows("lint_rules.toml", "rule", LintRule)}


def finding(rule: str, where: str, /, **words: object) -> Finding:
    """A finding by the rule, its places filled in."""
    return found(Finding, lint_rules()[rule], where, words)
