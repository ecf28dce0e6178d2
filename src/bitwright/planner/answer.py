"""The answer to a wish: ways to serve the model in order, and the first of them as the decision of the plan.

Where nothing was said of load, limits or cost, the handbook's decision stands, and the ranking is beside it for who
wants to compare. Where something was said, the first of the ranking decides. A type that was named stands in any case.

Not here: the order (ranking.py), the plan (build.py).
"""

from __future__ import annotations

import dataclasses

import msgspec

from bitwright.core.choices import Reason
from bitwright.core.devices import DeviceFacts
from bitwright.core.errors import EnvironmentFault
from bitwright.core.machine import MachineCalibration
from bitwright.core.plan import Memory, ModelFacts, Plan
from bitwright.core.ranking import Option, Ranking
from bitwright.core.target import Target
from bitwright.planner.contenders import contenders
from bitwright.planner.decide import Candidate, Decision
from bitwright.planner.layouts import Layout
from bitwright.planner.memory import serving_memory
from bitwright.planner.ranking import Sizes, rank
from bitwright.planner.request import Request
from bitwright.planner.rules import Guidance
from bitwright.planner.wish import Wish


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the plan is made from: the decision, and what stands behind it."""

    decision: Decision
    target: Target
    ranking: Ranking
    decided: bool  # by the ranking
    said: bool  # whether the wish says anything: then the artifact is served as its row of the ranking says


def answer(
    facts: ModelFacts,
    device: DeviceFacts,
    request: Request,
    decision: Decision,
    wish: Wish,
    goal: Target,
    rules: Guidance,
    sizes: Sizes,
    *,
    machine: MachineCalibration | None = None,
) -> Answer:
    """Rank, and let the first decide where the wish says anything. Raises `EnvironmentFault` when nothing is left."""
    candidates = contenders(facts, device, request, decision, wish.engine)
    strict = wish.floor is not None
    found = rank(facts, goal, candidates, sizes, rules=rules, strict_floor=strict, calibration=machine)
    if decision.named or not wish.decides:
        return Answer(decision=decision, target=goal, ranking=found, decided=False, said=wish.decides)
    if not found.options:
        raise _nothing_left(found, goal)
    first = _candidate_of(found.options[0], candidates)
    reasons = _because(found.options[0], goal)
    return Answer(
        decision=dataclasses.replace(decision, candidates=(first,), named=True, reasons=reasons),
        target=goal, ranking=found, decided=True, said=True,
    )  # fmt: skip


def with_answer(plan: Plan, found: Answer) -> Plan:
    """The plan with its target and ranking, served on the devices of its row; as the row says where anything was
    asked. A type that was named and refused is planned with a warning."""
    plan = msgspec.structs.replace(plan, target=found.target, ranking=found.ranking)
    if found.decided:
        first = found.ranking.options[0]
        plan = msgspec.structs.replace(plan, engine=first.engine, launch=first.launch)
    way = plan.way
    if way is None:
        missed = [entry.because for entry in found.ranking.refused if entry.label == f"{plan.type} in {plan.engine}"]
        warnings = [f"{plan.type} in {plan.engine} would not be offered: {because}" for because in missed if found.said]
        return msgspec.structs.replace(plan, warnings=(*plan.warnings, *warnings))
    more = tuple(reason for reason in way.reasons if reason not in plan.reasons)  # of settings, and of the regime
    plan = msgspec.structs.replace(plan, reasons=(*plan.reasons, *more))
    if found.said:
        memory = _in_service(way, min(found.target.context, plan.model.context))
        return msgspec.structs.replace(plan, engine=way.engine, launch=way.launch, memory=memory)
    each = way.devices // way.replicas
    if each == plan.device.count:
        return plan
    device = msgspec.structs.replace(plan.device, count=each)
    memory = serving_memory(
        plan.model, plan.tensors, device, engine=plan.engine, format=plan.format, context=plan.memory.context
    )
    return msgspec.structs.replace(plan, memory=memory)


def _in_service(way: Option, context: int) -> Memory:
    """Of all devices of one replica, each as full as the fullest; what is an interval at its upper end."""
    each, held = way.devices // way.replicas, way.memory
    beside = int((held.activations + held.overhead).high)
    return Memory(
        weights=held.weights * each,
        kv_cache=held.kv_cache * each,
        overhead=beside * each,
        total=(held.weights + held.kv_cache + beside) * each,
        available=held.available * each,
        context=context,
    )


def replica_layout(found: Answer | None, candidate: Candidate, count: int) -> Layout:
    """How one replica of the candidate is spread over devices: as its row of the ranking says, else over all."""
    for option in () if found is None else found.ranking.options:
        if option.type == candidate.label and option.engine == candidate.engine:
            return Layout(option.tensor_parallel, option.pipeline_parallel)
    return Layout(count, 1)


def _candidate_of(option: Option, candidates: list[Candidate]) -> Candidate:
    return next(entry for entry in candidates if entry.label == option.type and entry.format == option.format)


def _because(option: Option, goal: Target) -> tuple[Reason, ...]:
    order = {
        "balanced": "it is the first by the handbooks' rules that meets what was asked",
        "cost": "it costs the least dollars for a million tokens among the ways that meet what was asked",
        "latency": "its requests are the shortest among the ways that meet what was asked",
    }
    reason = Reason(choice=option.label, because=order[goal.aim], source="the ranking; docs/reference/planning.md")
    return (reason, *option.reasons)


def _nothing_left(found: Ranking, goal: Target) -> EnvironmentFault:
    nearest = found.refused[0]
    return EnvironmentFault(
        f"no way to serve the model on {goal.device.name} meets what was asked: "
        + "; ".join(f"{entry.label}: {entry.because}" for entry in found.refused[:3]),
        hint=f"loosen what {nearest.label} misses, or name another --target",
    )
