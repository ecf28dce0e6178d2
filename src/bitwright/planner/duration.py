"""How long a step will take, from counts: weights, passes over the calibration tokens, Gram matrices.

    seconds = start + (operations / operations per second + weights * nanoseconds) / cores
A forward pass takes 2 operations per weight and token; a Gram matrix of I inputs I * I per token, half of it for its
symmetry; a backward pass three times a forward one, as it runs each block again. The interval is a factor of two either
way: processors differ, and machines are busy.

Not here: what one unit of work costs (facts/work_costs.py), memory (memory.py).
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable

from bitwright.core.intervals import Interval
from bitwright.core.plan import CalibrationPlan, ModelFacts, Plan, TensorPlan
from bitwright.core.preflight import Share, TimeNeed
from bitwright.core.schemes import CodebookScheme, Int8RowScheme
from bitwright.facts import work_costs as cost
from bitwright.facts.blocks import block_groups
from bitwright.facts.families import BLOCK, EMBEDDING, expert_of, is_block_linear
from bitwright.planner.engine_fit import is_quantized

FACTOR = 2.0
RESTS_ON = "processor times of runs on one machine (docs/log.md, 2026-11-21), cores counted as equal and idle"
SELF = ("self",)
UNFITTED = (CodebookScheme, Int8RowScheme)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """What `ship` does behind the artifact: windows judged on, and whether speed is measured."""

    tokens: int
    sampled: bool
    measured: bool


def usable_threads() -> int:
    """Threads that numeric libraries will take here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdigit() and int(asked) > 0 else cores


def quantizing_time(plan: Plan, *, judging: Judging | None = None) -> TimeNeed:
    """Of `quantize`, or with `judging` of `ship`."""
    seconds = _calibrating(plan) | _solving(plan)
    if judging is not None:
        seconds |= _judging(plan, judging)
    return time_need(seconds)


def measuring_time(facts: ModelFacts, calibration: CalibrationPlan) -> TimeNeed:
    """Of `imatrix`: the text, and one pass."""
    tokens = calibration.samples * calibration.length
    parts = {"writing calibration text": _sampling(facts, tokens)} if calibration.source == SELF else {}
    return time_need(parts | {"running the model": _pass(facts, tokens) + facts.parameters * cost.CHECK_NS * 1e-9})


def converting_time(tensors: Iterable[TensorPlan]) -> TimeNeed:
    """Of `convert`, proof included."""
    return time_need({"carrying over and comparing": sum(map(_size, tensors)) * cost.CONVERT_NS * 1e-9})


def time_need(core_seconds: dict[str, float]) -> TimeNeed:
    """Seconds of one core → what this machine will take."""
    threads = usable_threads()
    parts = {"starting": cost.START_SECONDS} | {what: spent / threads for what, spent in core_seconds.items()}
    expected = sum(parts.values())
    return TimeNeed(
        total=Interval(expected=expected, low=expected / FACTOR, high=expected * FACTOR, rests_on=RESTS_ON),
        parts=tuple(Share(what=what, amount=spent) for what, spent in parts.items() if spent >= expected / 1000),
        threads=threads,
    )


def needs_text(plan: Plan) -> bool:
    """Whether a run takes statistics of its own."""
    fitted = any(is_quantized(entry) and not isinstance(entry.scheme, UNFITTED) for entry in plan.tensors)
    return fitted and bool(plan.calibration.source)


def weighs_tokens(plan: Plan) -> bool:
    """Whether gradients are taken first: for a byte budget, and with effort best."""
    return plan.budget is not None or (plan.effort == "best" and plan.method != "rtn")


def _calibrating(plan: Plan) -> dict[str, float]:
    if not needs_text(plan):
        return {}
    facts, tokens = plan.model, plan.calibration.samples * plan.calibration.length
    parts = {"writing calibration text": _sampling(facts, tokens)} if plan.calibration.source == SELF else {}
    one = _pass(facts, tokens)
    if weighs_tokens(plan):
        parts["weighing tokens"] = 4 * one + _head(facts, tokens) * 3
    passes = 2 if plan.method == "gptq" and plan.scales_columns else 1
    parts["running the model"] = one * passes / (cost.REDUCED_GAIN if plan.effort == "fast" else 1)
    if plan.method == "zeroquant":  # and two passes that compare the outputs
        parts["training codes"] = 3 * _pass(facts, cost.TRAINED_TOKENS) + 2 * one
    if plan.method == "gptq":
        parts["Gram matrices"] = tokens * _gram_operations(plan) / cost.PRODUCTS_PER_SECOND
    return parts


def _solving(plan: Plan) -> dict[str, float]:
    nanoseconds = 0.0
    searches = cost.COST_TYPES if plan.budget is not None else 1
    for entry in plan.tensors:
        count = _size(entry)
        if not is_quantized(entry):
            nanoseconds += count * cost.CAST_NS
            continue
        each = searches * cost.search_ns(entry.scheme) + cost.CHECK_NS
        if plan.scales_columns and is_block_linear(entry.name):
            each += cost.SCALING_NS
        if plan.method == "gptq" and entry.name != EMBEDDING:
            each += cost.FEEDBACK_NS + cost.FEEDBACK_NS_PER_INPUT * entry.shape[-1]
        nanoseconds += count * each
    return {"choosing scales and codes": nanoseconds * 1e-9}


def _judging(plan: Plan, judging: Judging) -> dict[str, float]:
    facts = plan.model
    both = 2 * (_pass(facts, judging.tokens) + _head(facts, judging.tokens))
    reading = 2 * facts.parameters * (cost.CHECK_NS + cost.CAST_NS) * 1e-9
    parts = {"validating": both + reading + (_sampling(facts, judging.tokens) if judging.sampled else 0.0)}
    if judging.measured:
        twin = 2 * facts.parameters
        reads = cost.SPEED_TOKENS * (twin + plan.file_bytes) / cost.SPEED_BYTES_PER_SECOND
        parts["measuring speed"] = cost.SPEED_SECONDS + reads + facts.parameters * cost.CAST_NS * 1e-9
    return parts


def _pass(facts: ModelFacts, tokens: int) -> float:
    """Core seconds of a forward pass through all blocks."""
    return 2 * _active(facts) * tokens / cost.PRODUCTS_PER_SECOND


def _head(facts: ModelFacts, tokens: int) -> float:
    return 2 * facts.vocab * facts.hidden * tokens / cost.PRODUCTS_PER_SECOND


def _sampling(facts: ModelFacts, tokens: int) -> float:
    """Core seconds of drawing text token by token."""
    return 2 * (_active(facts) + facts.vocab * facts.hidden) * tokens / cost.SAMPLED_PER_SECOND


def _active(facts: ModelFacts) -> float:
    """Weights of linears that one token passes through."""
    return sum(
        math.prod(tensor.shape) * (_routed_share(facts) if expert_of(tensor.name) is not None else 1.0)
        for tensor in facts.tensors
        if is_block_linear(tensor.name)
    )


def _gram_operations(plan: Plan) -> float:
    """Operations per token of all Gram matrices: one per input that matrices read, experts by their share."""
    facts, total = plan.model, 0.0
    columns = {entry.name: entry.shape[-1] for entry in plan.tensors if is_quantized(entry)}
    for layer in range(facts.layers):
        for group in block_groups(facts, layer):
            width = columns.get(f"{BLOCK.format(layer=layer)}{group.leader}.weight", 0)
            total += width * width * (_routed_share(facts) if group.expert is not None else 1.0)
    return total


def _routed_share(facts: ModelFacts) -> float:
    """Share of its experts that a token passes through."""
    return facts.experts.per_token / facts.experts.count if facts.experts else 1.0


def _size(entry: TensorPlan) -> int:
    return math.prod(entry.shape)
