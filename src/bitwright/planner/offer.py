"""One way to serve a model as it is offered: its figures, its command, and the rules that speak for it or against it.

Not here: which ways there are (contenders.py, layouts.py), which of them is best (ranking.py).
"""

from __future__ import annotations

import dataclasses
import math
import shlex

from bitwright.core.choices import Method, Reason
from bitwright.core.ranking import DeviceMemory, Option, Quality, Refused, Speed
from bitwright.core.target import Target
from bitwright.facts.engine_kernels import platform_of
from bitwright.planner.capability import place_of
from bitwright.planner.contenders import Contender
from bitwright.planner.cost import cost
from bitwright.planner.deployment import SIXTEEN_BIT, Deployment
from bitwright.planner.engine_fit import is_quantized
from bitwright.planner.engine_names import LLAMA_CPP, ROWS
from bitwright.planner.launch import Speculation, launch_line, serving_of, speculation_words
from bitwright.planner.memory import fills
from bitwright.planner.rules import Guidance, draft_for
from bitwright.planner.tensors import bits_per_weight

MEMORY_RULE = "decision framework handbook, step 1"
DRAFTED_TOKENS = 4
REPEATING_LOADS = ("code", "rag", "agent")  # answers that repeat their prompts, which n-grams guess


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A deployment that fits, with its figures."""

    deployment: Deployment
    memory: DeviceMemory
    speed: Speed | None

    @property
    def full(self) -> bool:
        """Whether nothing is left for longer requests."""
        return fills(self.memory.total.high, self.memory.available)

    @property
    def order(self) -> tuple[float, ...]:
        """Room first, then fewest devices, then the shortest request; where latency is the aim, that before devices."""
        devices, seconds = self.deployment.devices, request_seconds(self.speed, self.deployment.target)
        pair = (seconds, devices) if self.deployment.target.aim == "latency" else (devices, seconds)
        return (self.full, *pair)


def request_seconds(rate: Speed | None, target: Target) -> float:
    """Of a whole request, infinite where nothing is known of speed."""
    if rate is None:
        return math.inf
    return rate.ttft_seconds.expected + target.workload.output_tokens / rate.user_tokens_per_second.expected


def offered(contender: Contender, found: Placed, file_bytes: int, prior: Quality, rules: Guidance) -> Option:
    """The option of a deployment whose memory and speed are known."""
    placed, rate, kernel = found.deployment, found.speed, contender.kernel
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
        memory=found.memory,
        speed=rate,
        quality=prior,
        cost=None if rate is None else cost(placed, rate),
        reasons=(*_figures(placed, rate), *_rules(found, rules), *_environment(placed)),
    )


def _method(placed: Deployment) -> Method:
    return "gptq" if any(is_quantized(entry) for entry in placed.tensors) else "rtn"


def _figures(placed: Deployment, rate: Speed | None) -> tuple[Reason, ...]:
    """What the figures say of this way."""
    if rate is None:
        return ()
    bound = {"memory": "bytes of weights and cache", "compute": "arithmetic"}
    because = (
        f"at {placed.requests} requests at once decoding waits for {bound[rate.decode]}, prompts for "
        f"{bound[rate.prefill]}"
    )
    return (Reason(choice="regime", because=because, source="roofline; docs/reference/speed.md"),)


def _rules(way: Placed, rules: Guidance) -> tuple[Reason, ...]:
    """The rules that fired, as far as they concern this way."""
    placed, found = way.deployment, list(rules.of_type(way.deployment.type))
    if way.full:
        found += rules.of_setting("headroom", "full memory")
    if placed.kv_cache != SIXTEEN_BIT and placed.target.constraints.kv_cache == "auto":
        found += rules.of_setting("full-cache", "keys and values behind others")
        asked = rules.of_setting("fp8-cache", "fp8 cache") if placed.kv_cache == "fp8" else ()
        because = "keys and values in 16 bits would not fit, or take more devices"
        found += asked or [Reason(choice=f"{placed.kv_cache} cache", because=because, source=MEMORY_RULE)]
    if placed.pipeline_parallel > 1 and placed.engine != LLAMA_CPP:
        found += rules.of_setting("pipeline", f"{placed.pipeline_parallel} pipeline stages")
    if placed.tensor_parallel > 1:
        found += rules.of_setting("slow-links", "slow links")
    found += rules.of_setting("floor-first", "small model")
    found += rules.of_setting("prefix-caching", "prefix caching")
    return (*found, *_speculation(placed, rules))


def _environment(placed: Deployment) -> tuple[Reason, ...]:
    """Advice that does not stand on the launch line: variables of the engine on AMD's devices."""
    found = platform_of(ROWS.get(placed.engine, ""), place_of(placed.target.device))
    if found is None or not found.advice:
        return ()
    return (Reason(choice="environment, advice", because=found.advice, source=found.source),)


def _speculation(placed: Deployment, rules: Guidance) -> tuple[Reason, ...]:
    """Advice, with the words that the engine takes; where a draft is known, or the text itself may draft."""
    draft = draft_for(placed.facts)
    if "speculation" not in rules.adds or (draft is None and placed.target.workload.load not in REPEATING_LOADS):
        return ()
    words = speculation_words(
        serving_of(placed), Speculation(tokens=DRAFTED_TOKENS, draft="" if draft is None else draft.hub)
    )
    if not words:
        return ()
    (reason,) = rules.of_setting("speculation", "speculative decoding, advice")
    more = "the text itself drafts" if draft is None else f"{draft.model} drafts ({2 * draft.billions:.1f} GB more)"
    because = f"{reason.because}; {more}: add {shlex.join(words)}"
    return (Reason(choice=reason.choice, because=because, source=reason.source),)


def too_slow(contender: Contender, placed: Deployment, rate: Speed) -> Refused:
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


def below_floor(option: Option, target: Target) -> Refused:
    """That a type is expected to lose more than was allowed."""
    because = (
        f"perplexity is expected to rise by {option.quality.perplexity_delta.expected:.2g} and KL to be "
        f"{option.quality.kl_mean.expected:.2g}, the floor is {target.floor.perplexity_delta:g} and "
        f"{target.floor.kl_mean:.2g}"
    )
    return Refused(label=option.label, because=because, source=option.quality.source)
