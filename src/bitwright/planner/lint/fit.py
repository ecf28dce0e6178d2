"""Checks of size: does the model fit with room for keys and values, do heads divide, is the context one it knows.

The cache is counted by layers, what engines add at its lower end (facts/engine_memory.toml); what is not known (a model
outside the catalogue, no target) is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitwright.core.findings import Finding
from bitwright.core.plan import DeviceFacts, ModelFacts
from bitwright.core.units import format_bytes
from bitwright.facts.engine_memory import engine_bytes
from bitwright.facts.lint_rules import finding
from bitwright.planner.cache_bytes import kv_cache_bytes
from bitwright.planner.engine_names import LLAMA_CPP, VLLM
from bitwright.planner.lint.launches import Launch
from bitwright.planner.lint.options import as_fraction
from bitwright.planner.lint.world import World

SHARES = {"vllm": 0.92, "sglang": 0.9, "llama.cpp": 1.0}  # of a device, where the line does not say
OF_TOTAL = ("vllm", "sglang", "tgi")  # engines whose fraction is of the whole device
CONTEXT = 4096  # looked for where the line does not say
EIGHT_BIT_CACHE = ("fp8", "q8_0", "int8", "fp8_e4m3", "fp8_e5m2", "int8_per_token_head", "8", "16")


def check_fit(launch: Launch, world: World) -> Iterator[Finding]:
    """All checks of sizes."""
    facts = world.served.facts
    if launch.engine in ("ollama", "transformers"):
        return
    if facts is not None:
        yield from _heads(launch, facts)
        yield from _context(launch, facts)
    if world.device is None or world.device.kind == "cpu":
        return
    if world.device_is_named and launch.devices > world.device.count:
        yield finding("too-many-devices", launch.where, wanted=launch.devices, count=world.device.count)
    elif facts is not None:
        yield from _memory(launch, world, facts, world.device)


def _heads(launch: Launch, facts: ModelFacts) -> Iterator[Finding]:
    parallel = launch.number("tensor-parallel")
    if parallel is None or launch.engine == "llama.cpp" or _divides(parallel, facts):
        return
    fitting = [str(count) for count in range(1, 17) if _divides(count, facts)]
    yield finding(
        "tensor-parallel", launch.where, parallel=parallel, heads=facts.heads, kv_heads=facts.kv_heads,
        fitting=" or ".join(fitting),
    )  # fmt: skip


def _divides(parallel: int, facts: ModelFacts) -> bool:
    """More devices than key-value heads hold each of them several times."""
    small, large = sorted((parallel, facts.kv_heads))
    return parallel > 0 and facts.heads % parallel == 0 and large % small == 0


def _context(launch: Launch, facts: ModelFacts) -> Iterator[Finding]:
    context = launch.number("context")
    if launch.engine in ("llama.cpp", "ollama") or context is None:
        return  # llama.cpp's is of all requests together
    if context > facts.context:
        yield finding("context-too-long", launch.where, context=context, most=facts.context)


def _memory(launch: Launch, world: World, facts: ModelFacts, device: DeviceFacts) -> Iterator[Finding]:
    given = as_fraction(launch.value("memory-fraction") or "") if launch.engine in OF_TOTAL else None
    share = given if given is not None and 0 < given <= 1 else SHARES.get(launch.engine, 0.95)
    count = launch.devices // launch.replicas
    if launch.engine == "llama.cpp":
        layers = launch.value("gpu-layers")
        count = device.count
        if layers is not None and layers not in ("all", "auto", "-1", "99", "999"):
            return  # the rest stays in main memory
    weights = world.served.weights or weights_of(facts, world.served.bits)
    engine = launch.engine if launch.engine == LLAMA_CPP else VLLM  # the others are taken to be like vLLM
    process = engine_bytes(engine, device.kind, "process")
    overhead = int(process.low) * count if process is not None else 0
    available = int(device.memory_bytes * count * share)
    left = available - weights - overhead
    context = min(launch.number("context") or CONTEXT, facts.context)
    cache = kv_cache_bytes(facts, context)
    cache = cache // 2 if (launch.value("kv-cache") or "") in EIGHT_BIT_CACHE else cache
    if left <= 0:
        yield finding(
            "no-memory", launch.where, weights=format_bytes(weights), overhead=format_bytes(overhead),
            available=format_bytes(available),
        )  # fmt: skip
    elif left < cache:
        yield finding(
            "no-memory-for-kv", launch.where, left=format_bytes(left), context=context, cache=format_bytes(cache)
        )


def weights_of(facts: ModelFacts, bits: float) -> int:
    """Bytes at so many bits per weight of a matrix; embedding and head stay in 16."""
    if bits >= 16:
        return facts.bytes
    outside = facts.vocab * facts.hidden * (1 if facts.tied else 2)
    return int((facts.parameters - outside) * bits / 8 + outside * 2)
