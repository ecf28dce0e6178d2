"""What was done and what was measured: `quant.json`, `validation.json`, and the speeds of `ship`."""

from __future__ import annotations

from typing import Literal

from bitwright.core.behaviour import EngineCheck, LongOutput, TaskResult
from bitwright.core.carried import Carried
from bitwright.core.documents import Document, Record
from bitwright.core.estimate import Estimate as Estimate  # part of every record: one door for both
from bitwright.core.findings import Diagnosis
from bitwright.core.plan import CalibrationPlan, Plan, UseCase

Verdict = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class Provenance(Record, frozen=True, kw_only=True):
    """With what a record was made."""

    bitwright: str
    python: str
    platform: str
    libraries: dict[str, str]
    threads: int
    created: str  # ISO 8601, UTC
    device: str = "cpu"  # that the model's blocks ran on; several in the order in which they were dealt batches
    hardware: str = ""  # processor and memory of the machine
    code_sha256: str = ""  # of bitwright's own source files


class TensorRecord(Record, frozen=True, kw_only=True):
    """How one tensor was quantized. Errors are relative squared errors (0 is exact)."""

    name: str
    scheme: str
    method: str  # gptq, rtn, cast
    bytes: int
    weight_error: float
    output_error: float | None = None  # tr(E G E') / tr(W G W'), G the Gram matrix of the inputs
    damping: float | None = None
    notes: tuple[str, ...] = ()  # every retry and fallback
    seconds: float = 0.0
    tokens: int | None = None  # routed to the expert that holds the tensor


class ExpertCoverage(Record, frozen=True, kw_only=True):
    """Tokens that calibration sent to the experts of all blocks. One that is not covered borrowed statistics."""

    experts: int
    covered: int
    fewest_tokens: int
    most_tokens: int


class ArtifactFile(Record, frozen=True, kw_only=True):
    """One file of the artifact."""

    name: str
    bytes: int
    sha256: str  # for GGUF: of the tensor data only, so that metadata may carry the verdict


class QuantRecord(Document, frozen=True, kw_only=True):
    """`quant.json`."""

    schema: str = "bitwright.quant/1"
    plan: Plan
    calibration: CalibrationPlan
    calibration_sha256: str  # of the token ids
    tensors: tuple[TensorRecord, ...]
    files: tuple[ArtifactFile, ...]
    seconds: float
    peak_memory_bytes: int
    provenance: Provenance
    experts: ExpertCoverage | None = None  # of a mixture of experts that was calibrated on text


class ImatrixRecord(Document, frozen=True, kw_only=True):
    """What `imatrix` wrote."""

    schema: str = "bitwright.imatrix/1"
    file: str
    model: str
    model_fingerprint: str
    calibration: CalibrationPlan
    calibration_sha256: str  # of the token ids
    tensors: int
    tokens: int
    seconds: float
    provenance: Provenance


class ConversionRecord(Document, frozen=True, kw_only=True):
    """`conversion.json`: the same integers in another format, and the proof of it."""

    schema: str = "bitwright.conversion/1"
    source: str
    source_format: str
    source_fingerprint: str
    plan: Plan  # of what was written
    tensors: int  # compared: both artifacts decoded to float32, equal bit for bit
    values: int
    files: tuple[ArtifactFile, ...]
    seconds: float
    provenance: Provenance
    notes: tuple[str, ...] = ()


class Gate(Record, frozen=True, kw_only=True):
    """One threshold held against one estimate."""

    measure: str
    limit: float
    estimate: Estimate
    verdict: Verdict
    source: str
    text: str = ""  # the text it was measured on
    windows_more: int | None = None  # windows, items, prompts that would about decide it; none on the limit


class PositionBin(Record, frozen=True, kw_only=True):
    """Mean KL of the measured positions in [start, stop); before the scored half only some positions are measured."""

    start: int
    stop: int
    kl: float
    interval: Estimate | None = None


class ConfidenceBin(Record, frozen=True, kw_only=True):
    """Scored tokens for which the reference's most probable token has a probability in [low, high)."""

    low: float
    high: float
    tokens: int
    kl: Estimate | None = None  # None where fewer than two windows hold such tokens
    top1_agreement: Estimate | None = None


class Quantile(Record, frozen=True, kw_only=True):
    """The KL that a share of the scored tokens does not exceed."""

    share: float
    kl: Estimate
    bounded: bool = True  # False: too few tokens lie above to bound it, and 100 nats stand for its upper end


class LayerError(Record, frozen=True, kw_only=True):
    """After block `layer` (-1: embedding): relative squared error of the residual stream; KL through the final head.

    None where the artifact gave numbers that are not finite.
    """

    layer: int
    activation_error: float | None
    kl: float | None = None


class WorstToken(Record, frozen=True, kw_only=True):
    """A position where the artifact departs most from the reference."""

    window: int
    position: int
    context: str
    reference_token: str
    artifact_token: str
    kl: float
    text: str = ""  # name of the text
    next_token: str = ""  # what the text goes on with


class TextResult(Record, frozen=True, kw_only=True):
    """All measures on one text."""

    name: str
    sha256: str  # of the token ids
    windows: int
    length: int
    scored_tokens: int
    perplexity_reference: Estimate
    perplexity_artifact: Estimate
    perplexity_delta: Estimate
    kl_mean: Estimate
    kl_median: float
    kl_p99: float
    kl_max: float
    top1_agreement: Estimate
    by_position: tuple[PositionBin, ...]
    perplexity_ratio: Estimate | None = None
    kl_quantiles: tuple[Quantile, ...] = ()  # intervals from the shares of tokens above them
    top5_agreement: Estimate | None = (
        None  # share of the reference's five most probable tokens that the artifact's hold
    )
    rms_probability_change: Estimate | None = None  # of the token that the text goes on with
    by_confidence: tuple[ConfidenceBin, ...] = ()
    window_kl: tuple[float, ...] = ()  # mean of each window with numbers, in order
    cache_error: float | None = None  # standard error that cached reference logits add to the mean KL


class Floors(Document, frozen=True, kw_only=True):
    """What the reference departs from itself by arithmetic alone; mean KL in nats and shares of changed top tokens."""

    schema: str = "bitwright.floors/1"
    tokens: int  # scored
    order_kl: float  # float32 against float32 with other orders of summation
    order_flips: float
    bfloat16_kl: float  # bfloat16, in which checkpoints are served, against float32
    bfloat16_flips: float


class ValidationRecord(Document, frozen=True, kw_only=True):
    """`validation.json`."""

    schema: str = "bitwright.validation/1"
    verdict: Verdict
    use_case: UseCase
    gates: tuple[Gate, ...]
    texts: tuple[TextResult, ...]
    layers: tuple[LayerError, ...]
    worst: tuple[WorstToken, ...]
    reference: str
    reference_fingerprint: str
    artifact: str
    artifact_sha256: tuple[str, ...]
    artifact_bytes: int
    decoder: str  # library and version that decoded the artifact
    seconds: float
    command: str
    provenance: Provenance
    notes: tuple[str, ...] = ()  # what a reader must know to weigh the verdict
    parameters: int = 0  # of the original
    reference_bytes: int = 0  # of the original's tensors
    seed: int = 0  # of the choice of windows, and 1000 above it of text that the reference wrote
    settings_sha256: str = ""  # of what decides beside weights: GGUF keys; config, tokenizer, templates of a folder
    profile: str = ""  # name of the profile file that the limits came from; empty: the use case's own
    floors: Floors | None = None
    looks: int = 1  # how many times intervals were held against the limits, as windows came in
    confidence: float = 0.95  # of each look's intervals; together they hold with 0.95
    tasks: tuple[TaskResult, ...] = ()
    long_output: tuple[LongOutput, ...] = ()
    findings: tuple[Diagnosis, ...] = ()  # about settings and what lies beside the decoder; `doctor` looks further
    engine: EngineCheck | None = None


class SpeedPoint(Record, frozen=True, kw_only=True):
    """Tokens per second of one file in one engine."""

    name: str
    bytes: int
    prompt_tokens_s: float
    decode_tokens_s: float
    prompt_tokens: int
    decode_tokens: int
    repeats: int


class SpeedRecord(Document, frozen=True, kw_only=True):
    """`speed.json`: the artifact beside the F16 file, same engine, same run."""

    schema: str = "bitwright.speed/1"
    engine: str
    threads: int
    points: tuple[SpeedPoint, ...]
    provenance: Provenance


class ShipRecord(Document, frozen=True, kw_only=True):
    """What `ship` ends with: the verdict, and where everything is. Paths are relative to `out`."""

    schema: str = "bitwright.ship/1"
    out: str
    verdict: Verdict
    format: str
    type: str
    artifact: str
    artifact_bytes: int
    original_bytes: int
    bits_per_weight: float
    gates: tuple[Gate, ...]
    notes: tuple[str, ...]
    speed: tuple[SpeedPoint, ...]  # empty when no engine on this machine runs the format
    report: str
    try_next: str | None = None  # after FAIL: a type that keeps more
    reply: str | None = None  # what the served model answered, with `once`
    launch: str = ""  # the command that serves it, here or elsewhere


class TypeShare(Record, frozen=True, kw_only=True):
    """All tensors of one stored type."""

    type: str
    tensors: int
    parameters: int
    bytes: int


class Inspection(Document, frozen=True, kw_only=True):
    """What `inspect` finds: a checkpoint or an artifact by its headers, no weight decoded."""

    schema: str = "bitwright.inspection/1"
    path: str
    kind: str  # checkpoint, gguf, compressed-tensors, gptq, awq, bitsandbytes
    architecture: str
    parameters: int
    bytes: int  # of tensor data
    bits_per_weight: float
    types: tuple[TypeShare, ...]
    metadata: dict[str, str | int | float | bool]
    summary: str | None = None  # what the last validation left in the artifact
    carried: Carried | None = None  # the same, held against the artifact's bytes; None: a checkpoint
