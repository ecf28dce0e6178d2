"""Several artifacts of one model, judged on the same windows and put in order: `comparison.json`."""

from __future__ import annotations

from bitwright.core.documents import Document, Record
from bitwright.core.plan import UseCase
from bitwright.core.records import Estimate, Floors, Provenance, Verdict


class ComparedText(Record, frozen=True, kw_only=True):
    """A text that all were judged on."""

    name: str
    sha256: str  # of the token ids
    windows: int
    length: int  # tokens


class Entry(Record, frozen=True, kw_only=True):
    """One artifact. Figures are over all windows of all texts."""

    name: str  # unlike that of all others
    artifact: str
    format: str
    verdict: Verdict
    bytes: int  # of the weight files
    bits_per_weight: float
    memory_bytes: int | None  # predicted in service at the plan's context; None where no plan came with the artifact
    context: int | None  # tokens, of that prediction
    kl_mean: Estimate | None  # nats per token; None where the artifact gave no numbers
    top1_agreement: float | None
    perplexity_delta: float | None  # of the text on which KL is largest
    group: int  # 1: the closest to the original and all that cannot be told from it
    behind: Estimate | None  # KL above that of the first of its group, paired by window, in nats per token
    failed: tuple[str, ...]  # gates that did not pass, in words: by how much, or what would decide them
    artifact_sha256: tuple[str, ...]


class Pairing(Record, frozen=True, kw_only=True):
    """Two artifacts on the same windows. The intervals of all pairs hold together with 95 %."""

    closer: str
    other: str
    difference: Estimate  # KL of `other` minus that of `closer`, in nats per token
    told_apart: bool
    reason: str = ""  # why not, where the interval alone would tell them apart


class ComparisonRecord(Document, frozen=True, kw_only=True):
    """`comparison.json`."""

    schema: str = "bitwright.comparison/1"
    reference: str
    reference_fingerprint: str
    reference_bytes: int
    use_case: UseCase
    kl_limit: float | None
    texts: tuple[ComparedText, ...]
    entries: tuple[Entry, ...]  # the closest first
    pairs: tuple[Pairing, ...]
    advised: str | None  # name of the one to take: the smallest that passes
    advice: str  # the same in a sentence
    said: tuple[str, ...]  # the order in sentences
    confidence: float  # of each pair's interval
    floors: Floors | None
    notes: tuple[str, ...]
    command: str
    seconds: float
    provenance: Provenance
