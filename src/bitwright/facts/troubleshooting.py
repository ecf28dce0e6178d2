"""What users see when something is wrong, from the handbooks' tables of trouble; rows in troubleshooting.toml.

Not here: the findings that point at a row (doctor_rules.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bitwright.core.diagnosis import Symptom
from bitwright.core.documents import Record
from bitwright.core.findings import Diagnosis
from bitwright.facts.rows import read_rows

BESIDE = ("vision tower", "projector")


class SymptomRow(Record, frozen=True, kw_only=True):
    """A symptom, and what points at it: findings by rule, findings beside the decoder, or a figure beyond a limit."""

    symptom: str
    because: str
    fix: str
    source: str
    rules: tuple[str, ...] = ()
    vision: bool = False
    figure: str = ""
    above: float | None = None
    below: float | None = None

    def points(self, findings: Iterable[Diagnosis], figures: Mapping[str, float]) -> bool:
        """Whether one of them fires."""
        if any(found.rule in self.rules or (self.vision and found.part in BESIDE) for found in findings):
            return True
        value = figures.get(self.figure)
        if value is None:
            return False
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)


def symptoms(findings: Iterable[Diagnosis], figures: Mapping[str, float]) -> tuple[Symptom, ...]:
    """Rows that errors or figures point at. `figures`: `loudest`, of models whose inputs are rounded; `attention`, the
    fewest bits of a matrix of attention."""
    broken = [found for found in findings if found.severity == "error"]
    rows = read_rows("troubleshooting.toml", "symptom", SymptomRow)
    return tuple(
        Symptom(symptom=row.symptom, because=row.because, fix=row.fix, source=row.source)
        for row in rows
        if row.points(broken, figures)
    )
