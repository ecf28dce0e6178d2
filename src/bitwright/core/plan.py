"""The plan: what will be done to every tensor, on which engine, and why. `quantize`, `serve` and `ship` obey it."""

from __future__ import annotations

from typing import Literal

from bitwright.core.attention import CacheLayout
from bitwright.core.choices import PERCENTILE as PERCENTILE
from bitwright.core.choices import USE_CASES as USE_CASES
from bitwright.core.choices import ActOrder as ActOrder
from bitwright.core.choices import ArtifactFormat as ArtifactFormat
from bitwright.core.choices import Effort as Effort
from bitwright.core.choices import Method as Method
from bitwright.core.choices import ObserverRule as ObserverRule
from bitwright.core.choices import Reason as Reason
from bitwright.core.choices import UseCase as UseCase
from bitwright.core.devices import DeviceFacts as DeviceFacts
from bitwright.core.documents import Document, Record
from bitwright.core.ranking import Option, Ranking
from bitwright.core.schemes import MinifloatScheme, WeightScheme
from bitwright.core.target import Target

MIXED = "-mix"  # ends the label of a type some tensors of which were chosen by hand or under a byte budget


class TensorFacts(Record, frozen=True, kw_only=True):
    """One tensor of the checkpoint, from a safetensors header."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: BF16, F16, F32, …
    file: str
    bytes: int
    stored: str = ""  # name in the file, where that is another

    @property
    def stored_name(self) -> str:
        return self.stored or self.name


class VisionFacts(Record, frozen=True, kw_only=True):
    """What lies beside the decoder of a vision-language model, under the names of the files."""

    tower: tuple[TensorFacts, ...]
    projector: tuple[TensorFacts, ...]


class ExpertFacts(Record, frozen=True, kw_only=True):
    """The experts of a mixture: how many there are, how many a token is sent to, how wide they are."""

    count: int
    per_token: int
    intermediate: int
    shared_intermediate: int = 0  # of the expert that sees every token, 0 where there is none
    dense_layers: tuple[int, ...] = ()  # blocks without experts


class ModelFacts(Record, frozen=True, kw_only=True):
    """What `config.json` and the headers say. Dimensions are counts, not bytes."""

    path: str
    architecture: str  # e.g. LlamaForCausalLM
    family: str  # model_type: llama, mistral, qwen2, …
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    tied: bool
    parameters: int
    bytes: int
    dtype: str
    tensors: tuple[TensorFacts, ...]
    fingerprint: str  # SHA-256 over config.json, headers, sizes and samples of the weights, and any adapter
    experts: ExpertFacts | None = None  # of a mixture of experts
    adapter: str = ""  # folder of the LoRA adapter that is merged into the weights as they are read
    vision: VisionFacts | None = None  # of a vision-language model; `tensors` and dimensions are its decoder's then
    catalogue: str = ""  # hub id of the checkpoint, where only dimensions are known: tensors are those they imply
    cache: CacheLayout | None = None  # None: every layer keeps `kv_heads` keys and values of every token

    @property
    def all_tensors(self) -> tuple[TensorFacts, ...]:
        """Those of the decoder, and those beside it."""
        return self.tensors if self.vision is None else (*self.tensors, *self.vision.tower, *self.vision.projector)


class TensorPlan(Record, frozen=True, kw_only=True):
    """What becomes of one tensor."""

    name: str  # Hugging Face name
    stored_name: str  # name in the artifact
    shape: tuple[int, ...]
    scheme: WeightScheme
    bytes: int
    reason: str
    by_hand: bool = False  # asked for by name: a byte budget leaves it alone


class Override(Record, frozen=True, kw_only=True):
    """A wish for some tensors: the ggml type or the scheme that they get, or none, to stay in floating point."""

    pattern: str  # see planner/overrides.py
    type: str = ""

    @property
    def words(self) -> str:
        """As it stands on the command line."""
        return f"--type '{self.pattern}={self.type}'" if self.type else f"--keep '{self.pattern}'"


class Memory(Record, frozen=True, kw_only=True):
    """Predicted bytes when serving."""

    weights: int
    kv_cache: int
    overhead: int
    total: int
    available: int
    context: int


class CalibrationPlan(Record, frozen=True, kw_only=True):
    """Which text the statistics come from. `source` is `self`, or the paths of files.

    `source` is empty where no text is read: with an importance matrix of another tool, or where every input is to count
    alike.
    """

    source: tuple[str, ...] = ("self",)
    samples: int = 64
    length: int = 512
    seed: int = 0
    content_sha256: tuple[str, ...] = ()  # of each file in `source`, empty for a `hub:` name; or of the imatrix
    imatrix: str = ""  # path of a llama.cpp importance matrix that takes the place of text


class Budget(Record, frozen=True, kw_only=True):
    """Bytes that types were shared out under. `predicted_kl` is in nats per token, to second order."""

    file_bytes: int
    predicted_kl: float


class Plan(Document, frozen=True, kw_only=True):
    """The whole decision."""

    schema: str = "bitwright.plan/1"
    model: ModelFacts
    device: DeviceFacts
    use_case: UseCase
    format: ArtifactFormat
    type: str  # preset name: Q4_K_M, …, or the scheme's label
    method: Method
    effort: Effort = "balanced"
    overrides: tuple[Override, ...] = ()
    budget: Budget | None = None
    act_order: ActOrder = "static"  # in which order GPTQ takes columns, and whether groups follow it
    kv_cache: Literal["fp8"] | None = None  # scales of the key-value cache are stored
    observer: ObserverRule = "minmax"  # what chooses stored scales of inputs, of keys and of values
    percentile: float = PERCENTILE  # of the observer of that name
    saturate: bool = False  # what F16 cannot hold becomes its largest value, instead of being refused
    engine: str
    launch: tuple[str, ...]  # the command that serves the artifact; {artifact} stands for its path
    calibration: CalibrationPlan
    tensors: tuple[TensorPlan, ...]
    file_bytes: int  # predicted size of the weights
    bits_per_weight: float
    memory: Memory
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...] = ()
    target: Target | None = None  # what was asked of the served model
    ranking: Ranking | None = None  # ways to serve it, of which this plan is the first, or the one that was named

    @property
    def way(self) -> Option | None:
        """The row of the ranking that this plan is for; `None` without a ranking, and for a type it does not offer."""
        options = () if self.ranking is None else self.ranking.options
        named = (self.type.removesuffix(MIXED), self.engine)
        alike = [entry for entry in options if (entry.type, entry.engine) == named]
        return next((entry for entry in alike if entry.launch == self.launch), alike[0] if alike else None)

    @property
    def scales_columns(self) -> bool:
        """Whether columns are scaled before they are rounded, and norms rewritten (AWQ, SmoothQuant).

        GPTQ leaves 8-bit floats alone: their step follows each value, and scaling them raised KL (docs/log.md).
        """
        if self.method != "gptq":
            return self.method in ("awq", "smoothquant")
        kinds = (entry.scheme for entry in self.tensors if isinstance(entry.scheme, MinifloatScheme))
        return self.effort != "fast" and all(scheme.element == "e2m1" for scheme in kinds)
