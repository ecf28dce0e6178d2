"""Bytes that serving takes: weights exactly, the cache of keys and values exactly, the rest as an interval.

    kv_cache = 2 · layers · key-value heads · head_dim · 2 bytes · context, for one request at full length
Overhead is what engines add: vLLM 1 to 2 GB per device (contexts, graphs, activations); llama.cpp little more than the
logits of one micro-batch in float32. The fit is judged at the upper end, and nine tenths of a device's memory count as
available: a little less than vLLM takes by default (0.92), and about what an operating system leaves.

Not here: which candidate is taken when one does not fit (decide.py).
Sources: decision framework handbook, step 1; vLLM 0.32 CacheConfig.gpu_memory_utilization; llama.cpp default n_ubatch.
"""

from __future__ import annotations

from bitwright.core.plan import DeviceFacts, Memory, ModelFacts, TensorPlan
from bitwright.core.units import MIB

LLAMA_CPP, VLLM, SGLANG = "llama.cpp", "vllm", "sglang"
CACHE_BYTES = 2
MICRO_BATCH = 512
VLLM_OVERHEAD = (10**9, 2 * 10**9)
LLAMA_CPP_BASE = (64 * MIB, 256 * MIB)
AVAILABLE_SHARE = (9, 10)


def serving_memory(
    facts: ModelFacts, tensors: tuple[TensorPlan, ...], device: DeviceFacts, *, engine: str, context: int
) -> Memory:
    """Predicted bytes on all devices together, overhead at its upper end."""
    weights = sum(tensor.bytes for tensor in tensors)
    cache = kv_cache_bytes(facts, context)
    _, overhead = overhead_interval(facts, device, engine=engine)
    part, whole = AVAILABLE_SHARE
    return Memory(
        weights=weights,
        kv_cache=cache,
        overhead=overhead,
        total=weights + cache + overhead,
        available=device.memory_bytes * device.count * part // whole,
        context=context,
    )


def kv_cache_bytes(facts: ModelFacts, context: int) -> int:
    """Keys and values of one request of `context` tokens, in 16 bits."""
    return 2 * facts.layers * facts.kv_heads * facts.head_dim * CACHE_BYTES * context


def overhead_interval(facts: ModelFacts, device: DeviceFacts, *, engine: str) -> tuple[int, int]:
    """Least and most bytes that an engine adds to weights and cache."""
    if engine in (VLLM, SGLANG):  # SGLang's are taken to be like vLLM's
        return VLLM_OVERHEAD[0] * device.count, VLLM_OVERHEAD[1] * device.count
    logits = MICRO_BATCH * facts.vocab * 4
    return LLAMA_CPP_BASE[0] + logits, LLAMA_CPP_BASE[1] + logits


def fits(memory: Memory) -> bool:
    """Whether the prediction stays within what is available."""
    return memory.total <= memory.available
