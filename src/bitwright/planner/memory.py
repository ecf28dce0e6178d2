"""Whether a plan's artifact can be served on its devices: the prediction for one request at the context that was asked.

The bytes are those of serving_memory.py; here one device's become those of all, the rest at its upper end.

Not here: which candidate is taken when one does not fit (decide.py).
Sources: decision framework handbook, step 1; those of serving_memory.py.
"""

from __future__ import annotations

from bitwright.core.choices import ArtifactFormat
from bitwright.core.plan import DeviceFacts, Memory, ModelFacts, TensorPlan
from bitwright.core.ranking import DeviceMemory
from bitwright.core.target import QualityFloor, Target, Workload
from bitwright.facts.engine_kernels import Kernel
from bitwright.planner.deployment import Deployment
from bitwright.planner.engine_names import LLAMA_CPP as LLAMA_CPP
from bitwright.planner.engine_names import SGLANG as SGLANG
from bitwright.planner.engine_names import VLLM as VLLM
from bitwright.planner.serving_memory import device_memory

FULL = 0.95  # of what an engine may take


def serving_memory(
    facts: ModelFacts, tensors: tuple[TensorPlan, ...], device: DeviceFacts, *, engine: str, format: ArtifactFormat,
    context: int,
) -> Memory:  # fmt: skip
    """Predicted bytes on all devices together, the largest step and the engine's own at their upper ends."""
    one = one_request(facts, tensors, device, engine=engine, format=format, context=context)
    overhead = int((one.activations + one.overhead).high)
    return Memory(
        weights=one.weights * device.count,
        kv_cache=one.kv_cache * device.count,
        overhead=overhead * device.count,
        total=(one.weights + one.kv_cache + overhead) * device.count,
        available=one.available * device.count,
        context=context,
    )


def one_request(
    facts: ModelFacts, tensors: tuple[TensorPlan, ...], device: DeviceFacts, *, engine: str, format: ArtifactFormat,
    context: int, kernel: Kernel | None = None,
) -> DeviceMemory:  # fmt: skip
    """Of one device, where one request has all devices to itself. llama.cpp spreads blocks, all others matrices."""
    blocks = engine == LLAMA_CPP
    alone = Workload(load="chat", prompt_tokens=context - 1, output_tokens=1, concurrency=1)
    return device_memory(
        Deployment(
            facts=facts, type="", format=format, tensors=tensors, engine=engine, kernel=kernel,
            target=Target(
                device=device, workload=alone, context=context,
                floor=QualityFloor(use_case="chat", perplexity_delta=0.0, kl_mean=0.0),
            ),
            pipeline_parallel=device.count if blocks else 1, tensor_parallel=1 if blocks else device.count,
        )
    )  # fmt: skip


def fits(memory: Memory) -> bool:
    """Whether the prediction stays within what is available."""
    return memory.total <= memory.available


def fills(total: float, available: int) -> bool:
    """Whether so much leaves nothing for longer requests."""
    return total > FULL * available
