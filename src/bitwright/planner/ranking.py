"""Ways to serve a model, judged and put in order: what cannot be is refused with its reason, the rest is compared.

A way is refused when its engine does not load it on the device, when its memory at the upper end of the prediction is
not there, when its expected figures miss a limit that was asked for, or its expected loss a floor that was asked for.
Of one type in one engine the layout is kept that meets the limits on the fewest devices and leaves room; with a smaller
cache of keys and values, too, where that takes fewer devices.

    balanced   in the order of the handbooks' rules (rules.py), then what meets the floor, then time times devices
    cost       dollars for a million tokens, devices times time where there is no price
    latency    the time of a whole request
Balanced, what fills memory to the last goes behind, as does, for small models, what misses the floor. Ties go to the
better quality. Where several ways are within the noise of the prediction, the order is not proven: the
intervals say so.

Not here: which ways are looked at (contenders.py), the figures (serving_memory.py, speed.py, cost.py, quality.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from bitwright.core.machine import MachineCalibration
from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.core.ranking import DeviceMemory, Option, Ranking, Refused
from bitwright.core.schemes import FloatScheme, QuantScheme
from bitwright.core.target import Limits, Target
from bitwright.core.units import format_bytes
from bitwright.planner.capability import takes_fp8_cache
from bitwright.planner.contenders import Contender, in_engines
from bitwright.planner.cost import meets, replicas_needed
from bitwright.planner.decide import Candidate
from bitwright.planner.deployment import SIXTEEN_BIT, Deployment
from bitwright.planner.engine_fit import is_quantized
from bitwright.planner.engine_names import LLAMA_CPP
from bitwright.planner.layouts import Layout, layouts
from bitwright.planner.memory import fills
from bitwright.planner.offer import MEMORY_RULE, Placed, below_floor, offered, request_seconds, too_slow
from bitwright.planner.quality import meets_floor, quality
from bitwright.planner.rules import Guidance
from bitwright.planner.serving_memory import device_memory
from bitwright.planner.speed import speed

Sizes = Callable[[Candidate], tuple[tuple[TensorPlan, ...], int]]  # tensors of a candidate, and bytes of its file
CHEAPER_CACHE = {LLAMA_CPP: "q8_0"}  # where 16 bits do not fit; fp8 in the engines for GPUs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate with what the order goes by."""

    option: Option
    place: int  # among those that the rules prefer; behind them all otherwise
    behind: tuple[bool, ...]  # what else the rules put behind, strongest first
    within_floor: bool
    request_seconds: float

    @property
    def dollars(self) -> float:
        """For a million tokens; device seconds stand for them where there is no price."""
        if self.option.cost is not None:
            return self.option.cost.dollars_per_million_tokens.expected
        found = self.option.speed
        return math.inf if found is None else self.option.devices / found.tokens_per_second.expected


def rank(
    facts: ModelFacts,
    target: Target,
    candidates: Sequence[Candidate],
    sizes: Sizes,
    *,
    rules: Guidance,
    strict_floor: bool,
    calibration: MachineCalibration | None = None,
) -> Ranking:
    """The ranking. `strict_floor` refuses what is expected to miss the floor."""
    judged: list[Judged] = []
    refused: list[Refused] = []
    for candidate in candidates:
        tensors, file_bytes = sizes(candidate)
        scheme, shapes = _main_scheme(tensors)
        for contender in in_engines(candidate, scheme, target.device, target.constraints, shapes):
            found = _judge(facts, target, contender, tensors, file_bytes, rules, calibration)
            if isinstance(found, Refused):
                refused.append(found)
                continue
            if strict_floor and not meets_floor(found[0].quality, target.floor):
                refused.append(below_floor(found[0], target))
                continue
            judged += [_judged(option, target, rules) for option in found]
    judged.sort(key=_key(target))
    return Ranking(options=tuple(entry.option for entry in judged), refused=tuple(refused))


def _judged(option: Option, target: Target, rules: Guidance) -> Judged:
    within = meets_floor(option.quality, target.floor)
    full = fills(option.memory.total.high, option.memory.available)
    adds = rules.adds
    behind = (
        "floor-first" in adds and not within,
        "headroom" in adds and full,
        "full-cache" in adds and option.kv_cache != SIXTEEN_BIT,
    )
    seconds = request_seconds(option.speed, target)
    return Judged(
        option=option, place=rules.place(option.type), behind=behind, within_floor=within, request_seconds=seconds
    )


def _key(target: Target) -> Callable[[Judged], tuple[float, ...]]:
    def key(entry: Judged) -> tuple[float, ...]:
        loss = entry.option.quality.kl_mean.expected
        if target.aim == "latency":
            return (not entry.within_floor, entry.request_seconds, loss)
        if target.aim == "cost":
            return (not entry.within_floor, entry.dollars, loss)
        return (*entry.behind, entry.place, not entry.within_floor, entry.option.devices, entry.request_seconds, loss)

    return key


def _judge(
    facts: ModelFacts,
    target: Target,
    contender: Contender,
    tensors: tuple[TensorPlan, ...],
    file_bytes: int,
    rules: Guidance,
    calibration: MachineCalibration | None,
) -> list[Option] | Refused:
    """For each type of cache the layout that meets the limits on the fewest devices, or why there is none."""
    if not contender.loads:
        assert contender.kernel is not None
        because = contender.kernel.because or "no kernel on this device"
        return Refused(label=contender.label, because=because, source=contender.kernel.source)
    prior = quality(facts, contender.candidate.label)
    if prior is None:
        because = "nothing is known of what this type costs in quality"
        return Refused(label=contender.label, because=because, source="facts/quality_priors.toml")
    wish = Deployment(
        facts=facts, type=contender.candidate.label, format=contender.candidate.format, tensors=tensors,
        engine=contender.engine, kernel=contender.kernel, target=target,
    )  # fmt: skip
    found: list[Option] = []
    missed: Refused | None = None
    for cache in _caches(target, contender.engine, rules):
        if found and target.aim == "latency":
            break
        least = found[0].devices if found else math.inf
        fewer = [layout for layout in layouts(facts, target.device, contender.engine) if layout.devices < least]
        best = _best(dataclasses.replace(wish, kv_cache=cache), fewer, contender, calibration)
        if isinstance(best, Refused):
            missed = missed or best
        elif best is not None and best.deployment.devices < least:
            found.append(offered(contender, best, file_bytes, prior, rules))
    assert found or missed is not None
    return found or missed  # type: ignore[return-value]


def _best(
    wish: Deployment, known: Sequence[Layout], contender: Contender, calibration: MachineCalibration | None
) -> Placed | Refused | None:
    """The best layout (`Placed.order`) that meets the limits, or why none does. `None` of no layouts."""
    best: Placed | None = None
    missed: Refused | None = None
    for layout in known:
        enough = best is not None and not best.full and best.deployment.devices < layout.devices
        if enough and wish.target.aim != "latency":
            break
        spread = dataclasses.replace(wish, tensor_parallel=layout.tensor, pipeline_parallel=layout.pipeline)
        placed = _placed(spread, calibration)
        if isinstance(placed, Refused):
            missed = missed or placed
            continue
        rate = speed(placed[0], calibration)
        if rate is not None and not meets(rate, wish.target.limits):
            missed = too_slow(contender, placed[0], rate)
            continue
        found = Placed(deployment=placed[0], memory=placed[1], speed=rate)
        if best is None or found.order < best.order:
            best = found
    return best or missed


def _caches(target: Target, engine: str, rules: Guidance) -> tuple[str, ...]:
    """Types of keys and values, the better one first: a smaller one only where it takes fewer devices."""
    asked = target.constraints.kv_cache
    if asked != "auto":
        return (asked,)
    cheaper = CHEAPER_CACHE.get(engine, "fp8")
    if cheaper == "fp8" and not takes_fp8_cache(engine, target.device):
        return (SIXTEEN_BIT,)
    return (cheaper,) if cheaper == "fp8" and "fp8-cache" in rules.adds else (SIXTEEN_BIT, cheaper)


def _placed(wish: Deployment, calibration: MachineCalibration | None) -> tuple[Deployment, DeviceMemory] | Refused:
    """With as many replicas as memory and limits ask for, of as many as there are devices."""
    asked = wish.target.constraints.replicas
    most = asked or wish.target.device.count // wish.tensor_parallel
    needed = asked or 1
    if asked is None and wish.target.limits != Limits():
        needed = replicas_needed(wish, calibration) or most
    for replicas in range(min(needed, most), most + 1):
        placed = dataclasses.replace(wish, replicas=replicas)
        memory = device_memory(placed)
        if memory.total.high <= memory.available:
            return placed, memory
    because = (
        f"needs {format_bytes(memory.total.high)} on each of {placed.devices} devices, "
        f"{format_bytes(memory.available)} are there"
    )
    return Refused(label=f"{wish.type} in {wish.engine}", because=because, source=MEMORY_RULE)


def _main_scheme(tensors: tuple[TensorPlan, ...]) -> tuple[QuantScheme | None, tuple[tuple[int, int], ...]]:
    """The scheme that most weights have, and the shapes of its matrices; `None` where nothing is rounded."""
    held: dict[QuantScheme, int] = {}
    for entry in tensors:
        if not isinstance(entry.scheme, FloatScheme) and is_quantized(entry):
            held[entry.scheme] = held.get(entry.scheme, 0) + math.prod(entry.shape)
    if not held:
        return None, ()
    main = max(held, key=held.__getitem__)
    shapes = {(e.shape[-2], e.shape[-1]) for e in tensors if e.scheme == main}
    return main, tuple(sorted(shapes))
