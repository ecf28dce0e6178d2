"""A deployment on this machine's processor, for the planner to predict what serving_memory.py measures."""

from __future__ import annotations

from bitwright.core.choices import ArtifactFormat
from bitwright.core.plan import ModelFacts
from bitwright.core.schemes import FloatScheme
from bitwright.core.target import QualityFloor, Target, Workload
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.hardware import this_cpu
from bitwright.planner.deployment import Deployment
from bitwright.planner.tensors import float_tensors, gguf_tensors, linear_tensors

VLLM_REQUESTS = 128  # --max-num-seqs on processors, unless it is said


def deployment_of(facts: ModelFacts, engine: str, type: str, context: int, cache: str) -> Deployment:
    """A context that is filled; as many requests at once as the engine is ready for, which vLLM has buffers for."""
    format: ArtifactFormat = "gguf"
    if engine == "llama.cpp":
        tensors = gguf_tensors(facts, type)
    elif type == "BF16":
        tensors, format = float_tensors(facts, FloatScheme(dtype="bf16")), "safetensors"
    else:
        tensors, format = linear_tensors(facts, COMPRESSED_TYPES[type]), "compressed-tensors"
    requests = 1 if engine == "llama.cpp" else VLLM_REQUESTS
    workload = Workload(load="chat", prompt_tokens=context - 1, output_tokens=1, concurrency=requests)
    target = Target(
        device=this_cpu(), workload=workload, context=context,
        floor=QualityFloor(use_case="chat", perplexity_delta=0.0, kl_mean=0.0),
    )  # fmt: skip
    return Deployment(
        facts=facts, type=type, format=format, tensors=tensors, engine=engine, kernel=None, target=target,
        kv_cache=cache,
    )  # fmt: skip
