"""What an engine takes beside weights and cache, and how much of a device it may take: each engine's own reckoning.

    llama.cpp     one buffer for the widest step of a graph over a micro-batch (512 tokens): three results of the
                  feed-forward part and five vectors of the residual stream, or four results of the queries and both
                  of keys and values; the mask; logits of one token a slot; the inputs of a product in 16 bits
    vLLM & co.    a pass over as many tokens as a step may hold, in 16 bits, and float32 logits with what sampling
                  makes of them, for all requests at once
    SGLang        what it sets aside for both, used or not
The shapes of llama.cpp's buffer were read off its log for ten models of seven families (docs/log.md) and follow from
what its graph holds at once; the exact places are its allocator's.

Available is what weights, cache and all this may take together:
    vLLM                     the fraction of the device's total memory
    SGLang                   all of it: its fraction is what remains after what it set aside
    TensorRT-LLM, LMDeploy   what is used already, and the fraction of what is free then
    llama.cpp                a GPU but for 1024 MiB, as its own fit leaves; of main memory nine tenths
Sources: llama.cpp build 11434, src/llama-context.cpp (sched_reserve, output_reserve), ggml/src/ggml-cpu/ggml-cpu.c
(ggml_graph_plan), common/arg.cpp (--fit-target); vLLM 0.32, engine/arg_utils.py (tokens of a step), config/cache.py;
SGLang 0.5.23, server_args.py (chunked_prefill_size · 1.5 + cuda_graph_max_bs · 2 MiB); facts/engine_flags.toml.
"""

from __future__ import annotations

from bitwright.core.intervals import Interval, exactly
from bitwright.core.plan import DeviceFacts, ModelFacts
from bitwright.core.schemes import IntScheme
from bitwright.core.units import GIB, MIB
from bitwright.facts.engine_memory import engine_bytes
from bitwright.planner.cache_bytes import MICRO_BATCH, all_cells, caches_of
from bitwright.planner.deployment import Deployment
from bitwright.planner.engine_names import LLAMA_CPP, LMDEPLOY, OLLAMA, SGLANG, TENSORRT_LLM

LEAST_SLOTS = 4  # of llama.cpp's server where nothing else is said
MAIN_MEMORY_SHARE = (9, 10)  # what an operating system leaves
FIT_MARGIN = 1024 * MIB
VLLM_FRACTION = 0.92
FREE_FRACTION = {TENSORRT_LLM: 0.9, LMDEPLOY: 0.8}
ACTIVATION_SPREAD = (0.7, 1.6)
LOGIT_BYTES = 12  # float32, their softmax, a sorted copy
SGLANG_RESERVE = 512 * MIB


def activations(deployment: Deployment) -> Interval:
    """Of the largest step, on one device."""
    if deployment.engine in (LLAMA_CPP, OLLAMA):
        return _llamacpp_buffers(deployment)
    tokens = step_tokens(deployment.target.device)
    if deployment.engine == SGLANG and deployment.target.device.kind == "gpu":
        reserved = _sglang_chunk(deployment.target.device) * 3 * MIB // 2
        return Interval(expected=reserved, low=reserved, high=reserved, rests_on="set aside, used or not")
    facts, devices = deployment.facts, deployment.tensor_parallel
    widest = 2 * facts.hidden + max(3 * feed_forward_width(facts), attention_width(facts)) / devices
    values = 2.0 * tokens * widest + LOGIT_BYTES * deployment.requests * facts.vocab / devices
    low, high = ACTIVATION_SPREAD
    return Interval(
        expected=values,
        low=low * values,
        high=high * values,
        rests_on="what a step holds at once; not measured on GPUs",
    )


def overhead(deployment: Deployment) -> Interval:
    """Code, contexts, graphs and tables, on one device."""
    device, facts = deployment.target.device, deployment.facts
    if deployment.engine == SGLANG and device.kind == "gpu":
        return exactly(SGLANG_RESERVE + 2 * MIB * _sglang_graphs(device))
    process = engine_bytes(deployment.engine, device.kind, "process")
    assert process is not None, f"no row for {deployment.engine} on a {device.kind}"
    token = engine_bytes(deployment.engine, device.kind, "vocabulary")
    packing = engine_bytes(deployment.engine, device.kind, "packing int8" if _rounds_inputs(deployment) else "packing")
    total = process if token is None else process + token.times(facts.vocab)
    return total if packing is None else total + packing


def _rounds_inputs(deployment: Deployment) -> bool:
    """Whether products are of integers."""
    return any(isinstance(entry.scheme, IntScheme) and entry.scheme.activations for entry in deployment.tensors)


def available(deployment: Deployment, used: float) -> int:
    """Bytes of one device that may be taken. `used` is what is not the cache."""
    device, engine = deployment.target.device, deployment.engine
    if engine in (LLAMA_CPP, OLLAMA):
        part, whole = MAIN_MEMORY_SHARE
        return device.memory_bytes * part // whole if device.kind == "cpu" else max(device.memory_bytes - FIT_MARGIN, 0)
    if engine in FREE_FRACTION:
        return int(used + FREE_FRACTION[engine] * max(device.memory_bytes - used, 0))
    return device.memory_bytes if engine == SGLANG else int(device.memory_bytes * VLLM_FRACTION)


def step_tokens(device: DeviceFacts) -> int:
    """How many tokens one step of vLLM may hold, unless it is told."""
    small = device.kind == "cpu" or "a100" in device.name.lower()
    return 2048 if small else _by_memory(device, ((70, 2048), (160, 8192)), 16384, 3 * MIB // 4)


def _by_memory(device: DeviceFacts, steps: tuple[tuple[int, int], ...], last: int, each: int) -> int:
    """The tokens of the first step whose GiB are more than the device has.

    Behind a threshold they rise by one for `each` bytes, and not at once: a device with a little more memory would
    otherwise hold less. No device lies where that makes a difference.
    """
    tokens = steps[0][1]
    for (gib, _), following in zip(steps, [*(tokens for _, tokens in steps[1:]), last], strict=True):
        tokens = min(following, tokens + max(device.memory_bytes - gib * GIB, 0) // each)
    return tokens


def feed_forward_width(facts: ModelFacts) -> int:
    """Of what a token passes through at once: the feed-forward part, or its experts."""
    experts = facts.experts
    if experts is None:
        return facts.intermediate
    routed = experts.per_token * experts.intermediate + experts.shared_intermediate
    return max(routed, facts.intermediate if experts.dense_layers else 0)


def attention_width(facts: ModelFacts) -> int:
    """Queries, keys, values and the result."""
    return 2 * (facts.heads + facts.kv_heads) * facts.head_dim


def _llamacpp_buffers(deployment: Deployment) -> Interval:
    facts, cells = deployment.facts, all_cells(deployment)
    tokens = min(MICRO_BATCH, cells)
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    wide = feed_forward_width(facts)
    step = tokens * max(5 * facts.hidden + 3 * wide, facts.hidden + 4 * queries + 2 * keys)
    logits = max(deployment.requests, LEAST_SLOTS) * facts.vocab
    product = 2 * tokens * max(wide, facts.hidden, queries) if deployment.target.device.kind == "cpu" else 0
    size = (
        4.0 * max(step, 5 * tokens * facts.hidden + logits)
        + 4 * logits
        + 2 * tokens * sum(caches_of(deployment, cells))
        + product
    )
    return Interval(expected=size, low=0.85 * size, high=1.25 * size, rests_on="llama.cpp's log for ten models")


def _sglang_chunk(device: DeviceFacts) -> int:
    return _by_memory(device, ((35, 2048), (60, 4096), (160, 8192)), 16384, 7 * MIB // 4)


def _sglang_graphs(device: DeviceFacts) -> int:
    gib = device.memory_bytes / GIB
    return 24 if gib < 35 else 32 if gib < 60 else 256 if gib < 160 else 512
