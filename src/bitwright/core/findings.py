"""What `bitwright lint` found: mistakes, each with its fix and the source of the rule."""

from __future__ import annotations

from typing import Literal

from bitwright.core.documents import Document, Record

Severity = Literal["error", "warning"]


class Finding(Record, frozen=True, kw_only=True):
    """One mistake. An error fails, or serves something else than was meant; a warning costs speed, memory or safety."""

    rule: str
    severity: Severity
    where: str  # line of the text, or place in the manifest or plan
    says: str
    fix: str
    source: str


class LintRecord(Document, frozen=True, kw_only=True):
    """All that was found in one text."""

    schema: str = "bitwright.lint/1"
    subject: str
    launches: int  # commands that were understood
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        return sum(finding.severity == "error" for finding in self.findings)


class Diagnosis(Finding, frozen=True, kw_only=True):
    """What `bitwright doctor` found: a finding with the figures that it rests on, and how such a thing comes about."""

    cause: str
    evidence: dict[str, float]
    part: str = "decoder"  # or `vision tower`, `projector`, `settings`
