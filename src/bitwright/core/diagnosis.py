"""What `bitwright doctor` says of an artifact."""

from __future__ import annotations

from bitwright.core.documents import Document, Record
from bitwright.core.findings import Diagnosis
from bitwright.core.records import LayerError, Provenance


class OutlierChannels(Record, frozen=True, kw_only=True):
    """Channels of the residual stream after block `layer` that are far louder than the others, loudest first."""

    layer: int
    channels: tuple[int, ...]
    loudest: float  # root mean square of the loudest over the median of all


class Advice(Record, frozen=True, kw_only=True):
    """A matrix that would gain by more bits: what that costs, and what it saves in nats per token, to second order."""

    tensor: str
    bits: float
    to: str
    bytes: int
    kl: float


class Symptom(Record, frozen=True, kw_only=True):
    """A row of the handbooks' tables of trouble that a finding or a figure points at."""

    symptom: str
    because: str
    fix: str
    source: str


class DoctorRecord(Document, frozen=True, kw_only=True):
    """`doctor --json`."""

    schema: str = "bitwright.doctor/1"
    artifact: str
    reference: str
    healthy: bool  # no error among the findings
    findings: tuple[Diagnosis, ...]
    tensors: int  # that were compared
    layers: tuple[LayerError, ...] = ()
    outliers: tuple[OutlierChannels, ...] = ()
    advice: tuple[Advice, ...] = ()
    symptoms: tuple[Symptom, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float
    provenance: Provenance

    @property
    def errors(self) -> tuple[Diagnosis, ...]:
        """What breaks the model."""
        return tuple(finding for finding in self.findings if finding.severity == "error")
