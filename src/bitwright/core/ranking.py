"""Predicted figures of ways to serve a model, best first, and the ways that were refused.

Every figure that is not exact is an interval (intervals.py). Bytes of weights and of the cache are exact.

Not here: what was asked (core/target.py), what becomes of every tensor (core/plan.py).
"""

from __future__ import annotations

from typing import Literal

from bitwright.core.choices import ArtifactFormat, Method, Reason
from bitwright.core.documents import Record
from bitwright.core.intervals import Interval

SIXTEEN_BIT = "16-bit"  # keys and values as the model computes them
ENGINES = {"vllm": "vLLM", "sglang": "SGLang", "tensorrt-llm": "TensorRT-LLM", "lmdeploy": "LMDeploy"}

Regime = Literal["memory", "compute"]
Handling = Literal["computes", "widens", "emulates", "expands"]  # core/preflight.py: How, where the engine loads it


class DeviceMemory(Record, frozen=True, kw_only=True):
    """Bytes on the fullest device of one replica."""

    weights: int
    kv_cache: int  # of `concurrency` requests at their full length
    activations: Interval
    overhead: Interval  # contexts, graphs, code, buffers
    total: Interval
    available: int  # what the engine may take
    kv_tokens: int  # that the cache could hold, all requests together, at the upper end of everything else


class Speed(Record, frozen=True, kw_only=True):
    """Under the target's load."""

    ttft_seconds: Interval
    prefill_tokens_per_second: Interval
    user_tokens_per_second: Interval  # decoding, of each request
    tokens_per_second: Interval  # decoding, of all requests and replicas
    prefill: Regime
    decode: Regime
    source: Literal["roofline", "calibrated"]


class Quality(Record, frozen=True, kw_only=True):
    """What rounding is expected to cost, before anything was measured on this model."""

    perplexity_delta: Interval
    kl_mean: Interval
    source: str


class Cost(Record, frozen=True, kw_only=True):
    """Of all devices that the option takes."""

    dollars_per_hour: Interval
    dollars_per_million_tokens: Interval  # generated, at the target's load
    source: str
    date: str


class Option(Record, frozen=True, kw_only=True):
    """One way to serve the model: what it is quantized to, what runs it, on how many devices, and what to expect."""

    type: str  # Q4_K_M, FP8_DYNAMIC, W4A16 g128 sym, BF16
    format: ArtifactFormat
    method: Method
    bits_per_weight: float
    file_bytes: int
    engine: str
    engine_version: str
    kernel: str
    handling: Handling
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    replicas: int = 1
    kv_cache: str = SIXTEEN_BIT  # type of keys and values in the engine
    launch: tuple[str, ...]  # of one replica; {artifact} stands for its path
    memory: DeviceMemory
    speed: Speed | None = None  # None where the device's rates are not known
    quality: Quality
    cost: Cost | None = None
    reasons: tuple[Reason, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def devices(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel * self.replicas

    @property
    def label(self) -> str:
        return f"{self.type} in {self.engine}"


class Refused(Record, frozen=True, kw_only=True):
    """A way that was looked at and not offered."""

    label: str
    because: str
    source: str


class Ranking(Record, frozen=True, kw_only=True):
    """Best first by the target's aim."""

    options: tuple[Option, ...]
    refused: tuple[Refused, ...]


def engine_words(engine: str) -> str:
    """An engine as its makers write it."""
    return ENGINES.get(engine, engine)
