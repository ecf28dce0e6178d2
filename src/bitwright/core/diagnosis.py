"""What `bitwright doctor` says of an artifact."""

from __future__ import annotations

from bitwright.core.documents import Document, Record
from bitwright.core.findings import Diagnosis
from bitwright.core.records import Estimate, LayerError, Provenance


class OutlierChannels(Record, frozen=True, kw_only=True):
    """Channels of the residual stream after block `layer` that are far louder than the others, loudest first."""

    layer: int
    channels: tuple[int, ...]
    loudest: float  # root mean square of the loudest over the median of all


class Advice(Record, frozen=True, kw_only=True):
    """A matrix that would gain by more bits: what that costs, and what it saves in nats per token on the given text."""

    tensor: str
    bits: float
    to: str  # a type, or `floats`
    option: str  # of `quantize`
    bytes: int
    kl: Estimate  # measured
    predicted: float  # to second order, by which it was chosen


class Advised(Record, frozen=True, kw_only=True):
    """All of the advice taken at once."""

    bytes: int
    kl: Estimate


class Symptom(Record, frozen=True, kw_only=True):
    """A row of the handbooks' tables of trouble. `measure`: how it is seen where no file shows it."""

    symptom: str
    because: str
    fix: str
    source: str
    measure: str = ""


class PartCheck(Record, frozen=True, kw_only=True):
    """One path through the model: its tensors beside the reference's. Errors are squared, relative to its power."""

    part: str  # `decoder`, `vision tower` or `projector`
    tensors: int  # that were compared
    broken: int
    bits: float  # fewest per weight
    error: float  # the largest
    worst: str  # the tensor that has it


class DoctorRecord(Document, frozen=True, kw_only=True):
    """`doctor --json`."""

    schema: str = "bitwright.doctor/1"
    artifact: str
    reference: str
    healthy: bool  # no error among the findings
    findings: tuple[Diagnosis, ...]
    tensors: int  # that were compared
    parts: tuple[PartCheck, ...] = ()
    layers: tuple[LayerError, ...] = ()
    outliers: tuple[OutlierChannels, ...] = ()
    advice: tuple[Advice, ...] = ()
    advised: Advised | None = None
    symptoms: tuple[Symptom, ...] = ()  # that findings or figures point at
    elsewhere: tuple[Symptom, ...] = ()  # that are not looked for here
    notes: tuple[str, ...] = ()
    seconds: float
    provenance: Provenance

    @property
    def errors(self) -> tuple[Diagnosis, ...]:
        """What breaks the model."""
        return tuple(finding for finding in self.findings if finding.severity == "error")
