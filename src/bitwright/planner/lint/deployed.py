"""What a launch deploys, as far as its line and the model's name tell: the bytes on its fullest device.

Where the weights are not known tensor by tensor, they are those of the type that the name suggests: FP8 of
FP8_DYNAMIC, AWQ of 4-bit integers in groups of 128, a GGUF file without a type in its name of Q4_K_M. One request of
the line's context is counted, which is the least that anyone serves.

Not here: what is said of the result (fit.py), memory itself (planner/serving_memory.py).
"""

from __future__ import annotations

import re

import msgspec

from bitwright.core.choices import ArtifactFormat
from bitwright.core.errors import BitwrightError
from bitwright.core.plan import DeviceFacts, ModelFacts, TensorPlan
from bitwright.core.ranking import DeviceMemory
from bitwright.core.schemes import FloatScheme, IntScheme
from bitwright.core.target import QualityFloor, Target, Workload
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.facts.stacks import stacked
from bitwright.planner.deployment import SIXTEEN_BIT, Deployment
from bitwright.planner.engine_names import LLAMA_CPP, LMDEPLOY, SGLANG, TENSORRT_LLM, VLLM
from bitwright.planner.lint.launches import Launch
from bitwright.planner.lint.options import as_fraction
from bitwright.planner.lint.world import Served
from bitwright.planner.serving_memory import device_memory
from bitwright.planner.tensors import FLOATS, fitting_group_sizes, float_tensors, gguf_tensors, linear_tensors
from bitwright.planner.vision import KEPT, vision_tensors

ENGINES = {"vllm": VLLM, "tgi": VLLM, "sglang": SGLANG, "llama.cpp": LLAMA_CPP, "tensorrt-llm": TENSORRT_LLM,
           "lmdeploy": LMDEPLOY}  # fmt: skip
OF_TOTAL = (VLLM, SGLANG)  # whose fraction is of the whole device
TYPES = {"nvfp4": "NVFP4", "mxfp4": "MXFP4", "fp8": "FP8_DYNAMIC", "w8a8": "W8A8"}
CONTEXT = 4096  # looked for where the line does not say
GGUF_TYPE = "Q4_K_M"
EIGHT_BIT_CACHE = ("fp8", "q8_0", "int8", "fp8_e4m3", "fp8_e5m2", "int8_per_token_head", "8", "16")


def context_of(launch: Launch, facts: ModelFacts) -> int:
    """Tokens of the one request."""
    return min(launch.number("context") or CONTEXT, facts.context)


def memory_of(launch: Launch, served: Served, facts: ModelFacts, device: DeviceFacts) -> DeviceMemory | None:
    """Of the fullest device, with the line's fraction of it; `None` where the line does not tell."""
    engine = ENGINES.get(launch.engine)
    if engine is None:
        return None
    if engine == LLAMA_CPP and launch.value("gpu-layers") not in (None, "all", "auto", "-1", "99", "999"):
        return None  # the rest stays in main memory
    few = stacked(facts)
    try:
        tensors, format = served.tensors, served.format
        if not tensors:
            tensors, format = _tensors(few, served)
        found = device_memory(_deployment(launch, facts, tensors, format, device, engine))
    except BitwrightError:
        return None  # a type that this model does not take: other checks say so
    return _within(launch, found, device, engine)


def _within(launch: Launch, found: DeviceMemory, device: DeviceFacts, engine: str) -> DeviceMemory:
    """With the fraction that the line gives; SGLang's holds weights and cache, and all else lies outside of it."""
    share = as_fraction(launch.value("memory-fraction") or "") if engine in OF_TOTAL else None
    if share is None or not 0 < share <= 1:
        return found
    given = int(device.memory_bytes * share)
    if engine != SGLANG:
        return msgspec.structs.replace(found, available=given)
    beside = int((found.activations + found.overhead).low)
    return msgspec.structs.replace(found, available=min(given + beside, device.memory_bytes))


def _deployment(
    launch: Launch, facts: ModelFacts, tensors: tuple[TensorPlan, ...], format: ArtifactFormat, device: DeviceFacts,
    engine: str,
) -> Deployment:  # fmt: skip
    context = context_of(launch, facts)
    alone = Workload(load="chat", prompt_tokens=max(context - 1, 1), output_tokens=1, concurrency=1)
    floor = QualityFloor(use_case="chat", perplexity_delta=0.0, kl_mean=0.0)
    tensor, stages = launch.number("tensor-parallel") or 1, launch.number("pipeline-parallel") or 1
    if engine == LLAMA_CPP:
        tensor, stages = 1, device.count
    cache = "q8_0" if engine == LLAMA_CPP else "fp8"
    return Deployment(
        facts=facts, type="", format=format, tensors=tensors, engine=engine, kernel=None,
        target=Target(device=device, workload=alone, floor=floor, context=context),
        tensor_parallel=tensor, pipeline_parallel=stages,
        kv_cache=cache if (launch.value("kv-cache") or "") in EIGHT_BIT_CACHE else SIXTEEN_BIT,
    )  # fmt: skip


def _tensors(facts: ModelFacts, served: Served) -> tuple[tuple[TensorPlan, ...], ArtifactFormat]:
    """What the name says of the weights."""
    dtype = FLOATS[facts.dtype]
    if served.kind == "gguf":
        return gguf_tensors(facts, _preset(served.name)), "gguf"
    if not served.kind:
        return float_tensors(facts, FloatScheme(dtype=dtype)), "safetensors"
    if served.kind in TYPES:
        scheme = msgspec.structs.replace(COMPRESSED_TYPES[TYPES[served.kind]], scale_dtype=dtype)
    else:
        group = next((size for size in fitting_group_sizes(facts) if size <= 128), None)
        scheme = IntScheme(bits=8 if served.bits >= 8 else 4, group_size=group, scale_dtype=dtype)
    return (*linear_tensors(facts, scheme), *vision_tensors(facts, KEPT)), "compressed-tensors"


def _preset(name: str) -> str:
    """The type in the name of a GGUF file."""
    words = re.findall(r"I?Q\d_\w+", name.upper())
    return next((word for word in words if word in PRESETS), GGUF_TYPE)
