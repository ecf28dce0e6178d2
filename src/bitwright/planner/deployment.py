"""One way to serve a model, before anything is predicted of it. What predicts memory, speed and cost takes this.

Not here: which deployments are looked at, and which is best (ranking).
"""

from __future__ import annotations

import dataclasses

from bitwright.core.choices import ArtifactFormat
from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.core.ranking import SIXTEEN_BIT as SIXTEEN_BIT  # of deployments and of what ranks them
from bitwright.core.target import Target
from bitwright.facts.engine_kernels import Kernel


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """A model in a type, in an engine, spread over devices, under the load of a target."""

    facts: ModelFacts
    type: str  # label of the candidate: Q4_K_M, FP8_DYNAMIC, W4A16 g128 sym, BF16
    format: ArtifactFormat
    tensors: tuple[TensorPlan, ...]  # bytes of each are exact
    engine: str  # planner/memory.py: LLAMA_CPP, VLLM, …
    kernel: Kernel | None  # that runs most of the weights; None for floating point
    target: Target
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    replicas: int = 1
    kv_cache: str = SIXTEEN_BIT  # type of keys and values: 16-bit, fp8, q8_0

    @property
    def devices(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel * self.replicas

    @property
    def requests(self) -> int:
        """In progress at once on the busiest replica."""
        return -(-self.target.workload.concurrency // self.replicas)
