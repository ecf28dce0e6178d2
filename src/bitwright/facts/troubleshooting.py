"""What users see when something is wrong, from the handbooks' tables of trouble; rows in troubleshooting.toml.

Not here: the findings that point at a row (doctor_rules.py, lint_rules.py, the gates of `validate`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

from bitwright.core.diagnosis import Symptom
from bitwright.core.documents import Record
from bitwright.core.findings import Diagnosis
from bitwright.core.plan import ArtifactFormat
from bitwright.facts.rows import read_rows

BESIDE = ("vision tower", "projector")


class SymptomRow(Record, frozen=True, kw_only=True):
    """A symptom and what finds it; the head of the file says what each field means."""

    id: str
    symptom: str
    because: str
    fix: str
    source: str
    rules: tuple[str, ...] = ()
    vision: bool = False
    figure: str = ""
    above: float | None = None
    below: float | None = None
    gates: tuple[str, ...] = ()
    lint: tuple[str, ...] = ()
    measure: str = ""
    formats: tuple[ArtifactFormat, ...] = ()
    images: bool = False
    corrections: tuple[str, ...] = ()

    @property
    def shown(self) -> bool:
        """Whether `doctor` looks for it."""
        return bool(self.rules or self.vision or self.figure)

    def points(self, findings: Iterable[Diagnosis], figures: Mapping[str, float]) -> bool:
        """Whether one of them fires."""
        if any(found.rule in self.rules or (self.vision and found.part in BESIDE) for found in findings):
            return True
        value = figures.get(self.figure)
        if value is None:
            return False
        return (self.above is not None and value > self.above) or (self.below is not None and value < self.below)

    def concerns(self, format: ArtifactFormat, *, images: bool) -> bool:
        """Whether an artifact can have it."""
        return (not self.formats or format in self.formats) and (images or not self.images)

    def told(self) -> Symptom:
        """As a document says it."""
        return Symptom(
            symptom=self.symptom, because=self.because, fix=self.fix, source=self.source, measure=self.measure
        )


@functools.cache
def symptom_rows() -> tuple[SymptomRow, ...]:
    """The table, in the file's order."""
    return read_rows("troubleshooting.toml", "symptom", SymptomRow)


def symptoms(findings: Iterable[Diagnosis], figures: Mapping[str, float]) -> tuple[Symptom, ...]:
    """Rows that errors or figures point at. `figures`: `loudest`, of models whose inputs are rounded; `attention`, the
    fewest bits of a matrix of attention."""
    broken = [found for found in findings if found.severity == "error"]
    return tuple(row.told() for row in symptom_rows() if row.points(broken, figures))


def unseen(format: ArtifactFormat, *, images: bool) -> tuple[Symptom, ...]:
    """Rows that `doctor` has no eyes for, with how to see them."""
    return tuple(row.told() for row in symptom_rows() if not row.shown and row.concerns(format, images=images))
