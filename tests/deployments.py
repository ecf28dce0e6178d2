"""Deployments of models of known dimensions, without a file."""

from __future__ import annotations

from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.core.schemes import FloatScheme, IntScheme
from bitwright.core.target import Load, QualityFloor, Target, Workload
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.engine_kernels import Kernel, find_kernel
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.facts.hardware import find_device
from bitwright.planner.capability import capability_of
from bitwright.planner.deployment import Deployment
from bitwright.planner.tensors import float_tensors, gguf_tensors, linear_tensors
from model_shapes import shaped_facts

LLAMA_8B = {
    "hidden": 4096,
    "layers": 32,
    "heads": 32,
    "kv_heads": 8,
    "intermediate": 14336,
    "vocab": 128256,
    "head_dim": 128,
}
LLAMA_70B = {
    "hidden": 8192,
    "layers": 80,
    "heads": 64,
    "kv_heads": 8,
    "intermediate": 28672,
    "vocab": 128256,
    "head_dim": 128,
}
LLAMA_2_7B = {
    "hidden": 4096,
    "layers": 32,
    "heads": 32,
    "kv_heads": 32,
    "intermediate": 11008,
    "vocab": 32000,
    "head_dim": 128,
}
LLAMA_2_70B = LLAMA_70B | {"vocab": 32000, "head_dim": 128}
W4A16 = IntScheme(bits=4, group_size=128)
FLOOR = QualityFloor(use_case="chat", perplexity_delta=0.3, kl_mean=0.1)


def target(device: str, *, prompt: int, output: int, concurrency: int, **more: object) -> Target:
    """A wish of `concurrency` requests at once."""
    load: Load = "chat"
    workload = Workload(
        load=load, prompt_tokens=prompt, output_tokens=output, concurrency=concurrency,
        shared_prefix_tokens=int(str(more.pop("shared", 0))),
    )  # fmt: skip
    return Target(
        device=find_device(device),
        workload=workload,
        floor=FLOOR,
        context=prompt + output,
        **more,  # type: ignore[arg-type]
    )


def deployment(
    facts: ModelFacts, type: str, goal: Target, *, engine: str = "vllm", tensor_parallel: int = 1, replicas: int = 1
) -> Deployment:
    """`type` is BF16, W4A16, a type of compressed-tensors, or a preset of GGUF, which llama.cpp serves."""
    device = goal.device
    tensors: tuple[TensorPlan, ...]
    kernel: Kernel | None = None
    if type == "BF16":
        tensors, format = float_tensors(facts, FloatScheme(dtype="bf16")), "safetensors"
    elif type in PRESETS and engine == "llama.cpp":
        tensors, format = gguf_tensors(facts, type), "gguf"
        kernel = find_kernel("llama.cpp", "gguf", tensors[0].scheme, capability_of(device))  # type: ignore[arg-type]
    else:
        scheme = W4A16 if type == "W4A16" else COMPRESSED_TYPES[type]
        tensors, format = linear_tensors(facts, scheme), "compressed-tensors"
        kernel = find_kernel("vLLM 0.32", "compressed-tensors", scheme, capability_of(device))
    return Deployment(
        facts=facts, type=type, format=format, tensors=tensors, engine=engine,  # type: ignore[arg-type]
        kernel=kernel, target=goal, tensor_parallel=tensor_parallel, replicas=replicas,
    )  # fmt: skip


def llama(**dimensions: int) -> ModelFacts:
    """Llama of these dimensions, its head a matrix of its own."""
    return shaped_facts("llama", tied=False, **dimensions)
