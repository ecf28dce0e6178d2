"""Bytes of keys, values and states on one device, for engines that share out a cache by blocks and for llama.cpp.

    paged      a request takes whole blocks as it grows; a layer with a window keeps the window and the block that is
               begun; what is shared at the start of prompts is kept once
    llama.cpp  all is allocated at the start: cells for the contexts of all slots, in multiples of 256; a layer with a
               window keeps one window for each slot and a micro-batch, where llama.cpp uses windows at all
Tensor parallelism shares out the heads, and with more devices than heads each keeps one. A latent is one head.
Pipeline parallelism shares out layers: the fullest device is counted.

Not here: which layers there are (facts/cache_layout.py).
Sources: vLLM 0.32, v1/kv_cache_interface.py; llama.cpp build 11434, src/llama-context.cpp (padding to 256),
src/llama-kv-cache-iswa.cpp (windows), src/models/*.cpp (swa_type).
"""

from __future__ import annotations

from bitwright.core.attention import CacheGroup, CacheLayout
from bitwright.core.plan import ModelFacts
from bitwright.facts.cache_layout import layout_of
from bitwright.planner.deployment import Deployment

CACHE_BYTES = 2  # of a value in 16 bits
# (values, bytes) of a block of a type; of types with a scale per head and token, its bytes beside the values
BLOCKS = {
    "16-bit": (1, 2), "fp8": (1, 1), "q8_0": (32, 34), "q4_0": (32, 18), "q5_0": (32, 22), "int8": (1, 1),
    "nvfp4": (16, 9),
}  # fmt: skip
HEAD_SCALE = {"int8": 4}  # float32; vLLM's int8_per_token_head, LMDeploy's int8
PAGE, CPU_PAGE = 16, 128  # tokens; vLLM 0.32, platforms/{cuda,cpu}.py
CELLS, MICRO_BATCH = 256, 512
WINDOWED_FAMILIES = ("gemma2", "gemma3", "gemma3_text", "cohere2", "gpt_oss", "llama4", "llama4_text")  # in llama.cpp


def token_bytes(group: CacheGroup, type: str, tensor_parallel: int = 1) -> int:
    """Of one token in one layer."""
    heads = ceil_div(group.heads, tensor_parallel)
    values, size = BLOCKS[type]
    vectors = [width for width in (group.key, group.value) if width]
    if values == 1:
        return heads * sum(width * size + HEAD_SCALE.get(type, 0) for width in vectors)
    return sum(ceil_div(heads * width, values) * size for width in vectors)


def state_bytes(layout: CacheLayout, tensor_parallel: int = 1, stages: int = 1) -> int:
    """Of one request, whatever its length: convolutions in 16 bits, recurrent states in float32."""
    return sum(
        ceil_div(state.layers, stages) * (ceil_div(2 * state.convolution + 4 * state.recurrent, tensor_parallel))
        for state in layout.states
    )


def paged_bytes(deployment: Deployment, requests: int, tokens: int, shared: int = 0) -> int:
    """Of `requests` requests of `tokens` tokens, `shared` of which are the same in all."""
    layout, page = layout_of(deployment.facts), page_tokens(deployment)
    tensor, stages = deployment.tensor_parallel, deployment.pipeline_parallel
    together = shared // page * page if requests > 1 else 0
    total = requests * state_bytes(layout, tensor, stages)
    for group in layout.groups:
        kept = requests * pad(tokens - together, page) + together
        if group.window is not None and group.window < tokens:
            kept = min(kept, requests * (pad(group.window, page) + page))
        total += ceil_div(group.layers, stages) * kept * token_bytes(group, deployment.kv_cache, tensor)
    return total


def allocated_bytes(deployment: Deployment, cells: int) -> int:
    """Of a cache of llama.cpp. Tensors are split by rows with `-sm row`, the cache is not: it lies on one device."""
    layout, stages = layout_of(deployment.facts), deployment.pipeline_parallel
    total = deployment.requests * state_bytes(layout, stages=stages)
    for group, kept in cells_of(deployment, cells):
        total += ceil_div(group.layers, stages) * kept * token_bytes(group, deployment.kv_cache)
    return total


def cells_of(deployment: Deployment, cells: int) -> list[tuple[CacheGroup, int]]:
    """Each group of layers and how many cells llama.cpp gives it."""
    found = []
    for group in layout_of(deployment.facts).groups:
        kept = cells
        if _has_window(deployment, group):
            kept = min(cells, pad(min(cells, (group.window or 0) * deployment.requests + MICRO_BATCH), CELLS))
        found.append((group, kept))
    return found


def caches_of(deployment: Deployment, cells: int) -> list[int]:
    """Cells of each of llama.cpp's caches: layers with a window have one of their own, however large it is."""
    groups = cells_of(deployment, cells)
    return list({_has_window(deployment, group): kept for group, kept in groups}.values())


def _has_window(deployment: Deployment, group: CacheGroup) -> bool:
    return group.window is not None and deployment.facts.family in WINDOWED_FAMILIES


def all_cells(deployment: Deployment) -> int:
    """Of all slots: `-c` of the launch line, padded."""
    return pad(request_tokens(deployment) * deployment.requests, CELLS)


def request_tokens(deployment: Deployment) -> int:
    """The longest that one request may become."""
    return min(deployment.target.context, deployment.facts.context)


def page_tokens(deployment: Deployment) -> int:
    """Tokens of a block of vLLM's cache; other engines' pages are no larger."""
    return CPU_PAGE if deployment.target.device.kind == "cpu" else PAGE


def kv_cache_bytes(facts: ModelFacts, context: int) -> int:
    """Keys and values of one request of `context` tokens where nothing is paged or padded, in 16 bits."""
    return sum(
        group.layers * min(context, group.window or context) * token_bytes(group, "16-bit")
        for group in layout_of(facts).groups
    )


def pad(count: int, multiple: int) -> int:
    """The next multiple."""
    return ceil_div(count, multiple) * multiple


def ceil_div(count: int, parts: int) -> int:
    """Rounded up."""
    return -(-count // parts)
