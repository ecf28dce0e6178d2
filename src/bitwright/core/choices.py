"""The words that a plan chooses among, and how it says why."""

from __future__ import annotations

from typing import Literal

from bitwright.core.documents import Record

ArtifactFormat = Literal[
    "gguf", "compressed-tensors", "gptq", "gptq_v2", "awq", "bitsandbytes", "fp8", "modelopt", "safetensors"
]
Method = Literal["gptq", "awq", "smoothquant", "zeroquant", "rtn"]
Effort = Literal["fast", "balanced", "best"]
ActOrder = Literal["static", "group", "none"]
ObserverRule = Literal["minmax", "percentile", "mse", "entropy"]
PERCENTILE = 99.99  # share of values that the `percentile` rule keeps where nothing else was asked for
UseCase = Literal["chat", "code", "medical-legal", "summarization", "vlm"]
USE_CASES: tuple[UseCase, ...] = ("chat", "code", "medical-legal", "summarization", "vlm")


class Reason(Record, frozen=True, kw_only=True):
    """One decision as a sentence, and where the rule stands."""

    choice: str
    because: str
    source: str
