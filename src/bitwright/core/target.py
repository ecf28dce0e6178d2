"""What a person wants of a served model: on what hardware, under which load, within which limits.

A target is an answer to the handbook's seven questions (model size, hardware, batch sizes, latency, quality floor,
topology, cost) and to some that it leaves open. What the person left out is filled in before a target is made
(facts/workloads.toml), so every field says what was counted with.

Not here: the model (core/plan.py: ModelFacts), how a target is read from flags or YAML (planner/target.py).
"""

from __future__ import annotations

from typing import Literal

from bitwright.core.choices import ArtifactFormat, UseCase
from bitwright.core.devices import DeviceFacts
from bitwright.core.documents import Record

Load = Literal["chat", "code", "rag", "batch", "agent", "vlm", "edge"]
Aim = Literal["cost", "latency", "balanced"]
CacheType = Literal["auto", "fp8", "q8_0"]


class Workload(Record, frozen=True, kw_only=True):
    """Requests as they come. Lengths are tokens of a typical request; the plan holds for this many at once."""

    load: Load
    prompt_tokens: int
    output_tokens: int
    concurrency: int  # requests in progress at the same time
    shared_prefix_tokens: int = 0  # at the start of a prompt, equal among requests
    requests_per_second: float | None = None  # of arrivals; None: as many as `concurrency` users make

    @property
    def context(self) -> int:
        """Tokens of one request from its first to its last."""
        return self.prompt_tokens + self.output_tokens


class Limits(Record, frozen=True, kw_only=True):
    """The service level that is asked for; `None` is no limit."""

    ttft_seconds: float | None = None  # at most, to the first token
    user_tokens_per_second: float | None = None  # at least, for each request
    tokens_per_second: float | None = None  # at least, of all requests together


class QualityFloor(Record, frozen=True, kw_only=True):
    """How far the quantized model may depart, as thresholds.toml counts it."""

    use_case: UseCase
    perplexity_delta: float
    kl_mean: float


class Constraints(Record, frozen=True, kw_only=True):
    """What alone may be chosen; an empty tuple is no constraint."""

    engines: tuple[str, ...] = ()
    formats: tuple[ArtifactFormat, ...] = ()
    types: tuple[str, ...] = ()
    kv_cache: CacheType = "auto"
    plugins: bool = False  # engines' separate packages may be needed
    replicas: int | None = None  # copies of the engine; None: as many as load and devices ask for


class Target(Record, frozen=True, kw_only=True):
    """The whole wish. `device.count` devices are there to be used, fewer may be."""

    device: DeviceFacts
    workload: Workload
    limits: Limits = Limits()
    floor: QualityFloor
    aim: Aim = "balanced"
    constraints: Constraints = Constraints()
    context: int  # tokens that one request may take at most
    dollars_per_hour: float | None = None  # of one device; None: the table's range
