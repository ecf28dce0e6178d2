"""Checks of size: does the model fit with room for keys and values, do heads divide, is the context one it knows.

Memory is that of the fullest device (deployed.py), intervals at their lower ends; what is not known (a model outside
the catalogue, no target) is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitwright.core.findings import Finding
from bitwright.core.plan import DeviceFacts, ModelFacts
from bitwright.core.units import format_bytes
from bitwright.facts.lint_rules import finding
from bitwright.planner.lint.deployed import context_of, memory_of
from bitwright.planner.lint.launches import Launch
from bitwright.planner.lint.world import World


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
    held = memory_of(launch, world.served, facts, device)
    if held is None:
        return
    overhead = int((held.activations + held.overhead).low)
    left = held.available - held.weights - overhead
    each = " on each device" if device.count > 1 and launch.devices > 1 else ""
    if left <= 0:
        yield finding(
            "no-memory", launch.where, weights=format_bytes(held.weights), overhead=format_bytes(overhead),
            available=format_bytes(held.available) + each,
        )  # fmt: skip
    elif left < held.kv_cache:
        yield finding(
            "no-memory-for-kv", launch.where, left=format_bytes(left) + each, context=context_of(launch, facts),
            cache=format_bytes(held.kv_cache),
        )  # fmt: skip
