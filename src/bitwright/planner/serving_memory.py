"""Bytes on the fullest device of a deployment: weights and cache exactly, the rest as intervals.

What an engine holds is its own (engine_memory.py, device_weights.py, cache_bytes.py); here the parts come together, and
what the cache could hold follows. The cache that is asked for is that of all requests at their full length; of one
request at the longest that the target allows, where that is more. llama.cpp allocates the latter for every slot.

Not counted: prompts that llama.cpp's server keeps in main memory for their next turn (`--cache-ram`, up to 8 GiB).
"""

from __future__ import annotations

from bitwright.core.ranking import DeviceMemory
from bitwright.planner.cache_bytes import all_cells, allocated_bytes, page_tokens, paged_bytes, request_tokens
from bitwright.planner.deployment import Deployment
from bitwright.planner.device_weights import device_weights
from bitwright.planner.engine_memory import activations, available, overhead
from bitwright.planner.engine_names import LLAMA_CPP, OLLAMA


def device_memory(deployment: Deployment) -> DeviceMemory:
    """Of one device of one replica, the one that holds most."""
    weights = device_weights(deployment)
    moving, fixed = activations(deployment), overhead(deployment)
    cache, tokens = needed_cache(deployment)
    used = weights + moving.high + fixed.high
    may = available(deployment, used)
    left = max(may - used, 0)
    page = page_tokens(deployment)
    return DeviceMemory(
        weights=weights,
        kv_cache=cache,
        activations=moving,
        overhead=fixed,
        total=(moving + fixed).plus(weights + cache),
        available=may,
        kv_tokens=int(left * tokens / cache) // page * page if cache else 0,
    )


def needed_cache(deployment: Deployment) -> tuple[int, int]:
    """Bytes on one device, and the tokens that they are for."""
    longest, requests = request_tokens(deployment), deployment.requests
    if deployment.engine in (LLAMA_CPP, OLLAMA):
        cells = all_cells(deployment)
        return allocated_bytes(deployment, cells), cells
    workload = deployment.target.workload
    length = min(workload.context, longest)
    shared = min(workload.shared_prefix_tokens, length)
    many, one = paged_bytes(deployment, requests, length, shared), paged_bytes(deployment, 1, longest)
    return (many, requests * length) if many >= one else (one, longest)
