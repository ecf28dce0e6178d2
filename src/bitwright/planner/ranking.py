"""Ways to serve a model, judged and put in order: what cannot be is refused with its reason, the rest is compared.

A way is refused when its engine does not load it on the device, when its memory at the upper end of the prediction is
not there, when its expected figures miss a limit that was asked for, or its expected loss a floor that was asked for.
Of one type in one engine the layout is kept that meets the limits on the fewest devices.

    balanced   in the order of the handbook's rules (decide.py), then what meets the floor, then time times devices
    cost       dollars for a million tokens, devices times time where there is no price
    latency    the time of a whole request
Ties go to the better quality. Where several ways are within the noise of the prediction, the order is not proven: the
intervals say so.

Not here: which ways are looked at (contenders.py), the figures (serving_memory.py, speed.py, cost.py, quality.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from bitwright.core.choices import Method, Reason
from bitwright.core.machine import MachineCalibration
from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.core.ranking import DeviceMemory, Option, Quality, Ranking, Refused, Speed
from bitwright.core.schemes import FloatScheme, QuantScheme
from bitwright.core.target import Limits, Target
from bitwright.core.units import format_bytes
from bitwright.planner.contenders import ROWS, Contender, in_engines, tensor_parallels
from bitwright.planner.cost import cost, meets, replicas_needed
from bitwright.planner.decide import Candidate
from bitwright.planner.deployment import SIXTEEN_BIT, Deployment
from bitwright.planner.engine_fit import is_quantized
from bitwright.planner.engine_names import LLAMA_CPP
from bitwright.planner.launch import launch_line, serving_of
from bitwright.planner.quality import meets_floor, quality
from bitwright.planner.serving_memory import device_memory
from bitwright.planner.speed import speed
from bitwright.planner.tensors import bits_per_weight

Sizes = Callable[[Candidate], tuple[tuple[TensorPlan, ...], int]]  # tensors of a candidate, and bytes of its file
MEMORY_RULE = "decision framework handbook, step 1"
CHEAPER_CACHE = {LLAMA_CPP: "q8_0"}  # where 16 bits do not fit; fp8 in the engines for GPUs


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A candidate with what the order goes by."""

    option: Option
    place: int  # among those that the rules prefer; behind them all otherwise
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
    preferred: Sequence[str],
    strict_floor: bool,
    calibration: MachineCalibration | None = None,
) -> Ranking:
    """The ranking. `preferred` are labels in the rules' order; `strict_floor` refuses what is expected to miss it."""
    judged: list[Judged] = []
    refused: list[Refused] = []
    for candidate in candidates:
        tensors, file_bytes = sizes(candidate)
        scheme, shapes = _main_scheme(tensors)
        for contender in in_engines(candidate, scheme, target.device, target.constraints, shapes):
            found = _judge(facts, target, contender, tensors, file_bytes, calibration)
            if isinstance(found, Refused):
                refused.append(found)
                continue
            within = meets_floor(found.quality, target.floor)
            if strict_floor and not within:
                refused.append(_below_floor(found, target))
                continue
            place = preferred.index(found.type) if found.type in preferred else len(preferred)
            seconds = seconds_of(found, target)
            judged.append(Judged(option=found, place=place, within_floor=within, request_seconds=seconds))
    judged.sort(key=_key(target))
    return Ranking(options=tuple(entry.option for entry in judged), refused=tuple(refused))


def _key(target: Target) -> Callable[[Judged], tuple[float, ...]]:
    def key(entry: Judged) -> tuple[float, ...]:
        loss = entry.option.quality.kl_mean.expected
        if target.aim == "latency":
            return (not entry.within_floor, entry.request_seconds, loss)
        if target.aim == "cost":
            return (not entry.within_floor, entry.dollars, loss)
        return (entry.place, not entry.within_floor, entry.option.devices, entry.request_seconds, loss)

    return key


def _judge(
    facts: ModelFacts,
    target: Target,
    contender: Contender,
    tensors: tuple[TensorPlan, ...],
    file_bytes: int,
    calibration: MachineCalibration | None,
) -> Option | Refused:
    """The layout that meets the limits on the fewest devices, or why there is none."""
    if not contender.loads:
        assert contender.kernel is not None
        because = contender.kernel.because or "no kernel on this device"
        return Refused(label=contender.label, because=because, source=contender.kernel.source)
    prior = quality(facts, contender.candidate.label)
    if prior is None:
        because = "nothing is known of what this type costs in quality"
        return Refused(label=contender.label, because=because, source="facts/quality_priors.toml")
    found: list[Option] = []
    missed: Refused | None = None
    for ways in tensor_parallels(facts, target.device, contender.engine):
        for cache in _caches(target, contender.engine):
            wish = _deployment(facts, target, contender, tensors, ways, cache)
            placed = _placed(wish, calibration)
            if isinstance(placed, Refused):
                missed = missed or placed
                continue
            rate = speed(placed[0], calibration)
            if rate is not None and not meets(rate, target.limits):
                missed = _too_slow(contender, placed[0], rate)
                continue
            found.append(_option(contender, *placed, file_bytes, rate, prior))
            break  # a smaller cache only where the better one does not do
        if found and found[0].devices < 2 * ways:
            break  # the next layout takes more devices
    if found:
        return min(found, key=lambda option: (option.devices, seconds_of(option, target)))
    assert missed is not None
    return missed


def seconds_of(option: Option, target: Target) -> float:
    """Of a whole request, infinite where nothing is known of speed."""
    rate = option.speed
    if rate is None:
        return math.inf
    return rate.ttft_seconds.expected + target.workload.output_tokens / rate.user_tokens_per_second.expected


def _caches(target: Target, engine: str) -> tuple[str, ...]:
    """Types of keys and values, the better one first."""
    asked = target.constraints.kv_cache
    if asked != "auto":
        return (asked,)
    return SIXTEEN_BIT, CHEAPER_CACHE.get(engine, "fp8")


def _deployment(
    facts: ModelFacts, target: Target, contender: Contender, tensors: tuple[TensorPlan, ...], ways: int, cache: str
) -> Deployment:
    return Deployment(
        facts=facts, type=contender.candidate.label, format=contender.candidate.format, tensors=tensors,
        engine=contender.engine, kernel=contender.kernel, target=target, tensor_parallel=ways, kv_cache=cache,
    )  # fmt: skip


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


def _option(
    contender: Contender, placed: Deployment, memory: DeviceMemory, file_bytes: int, rate: Speed | None, prior: Quality
) -> Option:
    kernel = contender.kernel
    version = ROWS[contender.engine].partition(" ")[2]
    assert kernel is None or kernel.how in ("computes", "widens", "emulates", "expands")
    return Option(
        type=placed.type,
        format=placed.format,
        method=_method(placed),
        bits_per_weight=bits_per_weight(placed.tensors),
        file_bytes=file_bytes,
        engine=contender.engine,
        engine_version=version,
        kernel="" if kernel is None else kernel.kernel,
        handling="computes" if kernel is None else kernel.how,  # type: ignore[arg-type]
        tensor_parallel=placed.tensor_parallel,
        pipeline_parallel=placed.pipeline_parallel,
        replicas=placed.replicas,
        kv_cache=placed.kv_cache,
        launch=launch_line(serving_of(placed)),
        memory=memory,
        speed=rate,
        quality=prior,
        cost=None if rate is None else cost(placed, rate),
        reasons=_reasons(placed, rate),
    )


def _method(placed: Deployment) -> Method:
    return "gptq" if any(is_quantized(entry) for entry in placed.tensors) else "rtn"


def _reasons(placed: Deployment, rate: Speed | None) -> tuple[Reason, ...]:
    """What the figures say of this way."""
    found = []
    if rate is not None:
        bound = {"memory": "bytes of weights and cache", "compute": "arithmetic"}
        because = (
            f"at {placed.requests} requests at once decoding waits for {bound[rate.decode]}, prompts for "
            f"{bound[rate.prefill]}"
        )
        found.append(Reason(choice="regime", because=because, source="roofline; docs/reference/speed.md"))
    if placed.kv_cache != SIXTEEN_BIT and placed.target.constraints.kv_cache == "auto":
        because = "keys and values in 16 bits would not fit"
        found.append(Reason(choice=f"{placed.kv_cache} cache", because=because, source=MEMORY_RULE))
    return tuple(found)


def _too_slow(contender: Contender, placed: Deployment, rate: Speed) -> Refused:
    """The first limit that is missed, on all devices."""
    limits, where = placed.target.limits, f"on {placed.devices} device{'s' if placed.devices > 1 else ''}"
    if limits.ttft_seconds is not None and rate.ttft_seconds.expected > limits.ttft_seconds:
        because = f"first token after {rate.ttft_seconds.expected:.3g} s {where}, {limits.ttft_seconds:g} s are asked"
    elif (
        limits.user_tokens_per_second is not None
        and rate.user_tokens_per_second.expected < limits.user_tokens_per_second
    ):
        because = (
            f"{rate.user_tokens_per_second.expected:.3g} tokens/s for each request {where}, "
            f"{limits.user_tokens_per_second:g} are asked"
        )
    else:
        because = (
            f"{rate.tokens_per_second.expected:.4g} tokens/s in total {where}, {limits.tokens_per_second:g} are asked"
        )
    return Refused(label=contender.label, because=because, source="predicted speed; docs/reference/speed.md")


def _below_floor(option: Option, target: Target) -> Refused:
    because = (
        f"perplexity is expected to rise by {option.quality.perplexity_delta.expected:.2g} and KL to be "
        f"{option.quality.kl_mean.expected:.2g}, the floor is {target.floor.perplexity_delta:g} and "
        f"{target.floor.kl_mean:.2g}"
    )
    return Refused(label=option.label, because=because, source=option.quality.source)


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
