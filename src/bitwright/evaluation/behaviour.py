"""Gates on what an artifact does, and the record that holds them beside those on what it predicts.

The first metric of a task is gated, as its author lists them; the others are shown. Not here: how they were measured
(tasks/, long_output.py, engine_check.py), the limits (facts).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import msgspec

from bitwright.core.behaviour import EngineCheck, LongOutput, Suspect, TaskResult
from bitwright.core.estimate import Estimate
from bitwright.core.records import Gate, ValidationRecord
from bitwright.evaluation.stats import windows_to_decide
from bitwright.evaluation.verdict import judge, overall
from bitwright.facts.behaviour import LIMITS, BehaviourLimits

SIGNIFICANT = 0.05
READINGS = {"chat template": "engine_template", "tokenizer": "engine_tokenizer"}  # suspects, and their gates
OFTEN = 0.2  # a share of the original's texts that loop, from which on it is worth a word


def with_tasks(
    record: ValidationRecord, results: Sequence[TaskResult], limits: BehaviourLimits, *, left_out: Sequence[str] = ()
) -> ValidationRecord:
    """The record with task results, their gates, and the verdict over all gates; `left_out` was asked and not
    compared."""
    gates = task_gates(results, limits)
    notes = [
        *task_notes(results, gates),
        *(f"{one} is no mean over several items, and was not compared" for one in left_out),
    ]
    return msgspec.structs.replace(with_gates(record, gates, notes), tasks=(*record.tasks, *results))


def with_long_output(
    record: ValidationRecord, results: Sequence[LongOutput], limits: BehaviourLimits
) -> ValidationRecord:
    """The same with long texts."""
    gates = long_gates(results, limits)
    return msgspec.structs.replace(
        with_gates(record, gates, long_notes(results, gates)), long_output=(*record.long_output, *results)
    )


def with_engine(record: ValidationRecord, check: EngineCheck, limits: BehaviourLimits) -> ValidationRecord:
    """The same with the engine that serves: a gate on its predictions, and one on each reading that is another."""
    limits = msgspec.structs.replace(limits, engine_kl=max(limits.engine_kl, check.allowed or 0.0))
    gates = [_gate("engine_kl", check.kl_engine, limits, where=check.engine, count=check.prompts)]
    gates += [_found_gate(check, suspect) for suspect in check.suspects if suspect.name in READINGS]
    gates = [gate for gate in gates if gate.measure == "engine_kl" or gate.verdict == "FAIL"]
    record = with_gates(record, gates, engine_notes(check, gates))
    return msgspec.structs.replace(record, engine=check)


def engine_notes(check: EngineCheck, gates: Sequence[Gate]) -> list[str]:
    """Where something does not pass: the suspects, in the order in which they are to be looked at."""
    notes = _doubts(gates, {check.engine: check.prompts}, "prompts")
    if all(gate.verdict == "PASS" for gate in gates):
        return notes
    order = {"found": 0, "suspected": 1, "not tested": 2, "cleared": 3}
    suspects = sorted(check.suspects, key=lambda suspect: order[suspect.finding])
    listing = "; ".join(f"{one.name} {one.finding}: {one.evidence}" for one in suspects)
    return [*notes, f"{check.engine} answers otherwise than the artifact that it serves. {listing}"]


def _found_gate(check: EngineCheck, suspect: Suspect) -> Gate:
    """The gate that appears only when it fails: the engine reads text or chats otherwise than the original."""
    count = float(suspect.finding == "found")
    return Gate(
        measure=READINGS[suspect.name], limit=0.0, estimate=Estimate(value=count, low=count, high=count),
        verdict="FAIL" if count else "PASS", source="other tokens are another prompt", text=check.engine,
    )  # fmt: skip


def with_gates(record: ValidationRecord, gates: Sequence[Gate], notes: Sequence[str]) -> ValidationRecord:
    """The record with more gates and notes; a limit of infinity, which a profile may set, is none."""
    both = (*record.gates, *(gate for gate in gates if gate.limit < math.inf))
    return msgspec.structs.replace(record, gates=both, verdict=overall(both), notes=(*record.notes, *notes))


def gated(results: Sequence[TaskResult]) -> list[TaskResult]:
    """One row of each task: its first that can be compared item by item."""
    first: dict[str, TaskResult] = {}
    for result in results:
        if result.drop is not None:
            first.setdefault(result.task, result)
    return [*first.values()]


def task_gates(results: Sequence[TaskResult], limits: BehaviourLimits) -> list[Gate]:
    """Is the score no lower by more than the margin, and do few enough answers change?"""
    return [
        _gate(measure, estimate, limits, where=result.task, count=result.items)
        for result in gated(results)
        for measure, estimate in (("task_drop", result.drop), ("task_flips", result.flips))
        if estimate is not None
    ]


def long_gates(results: Sequence[LongOutput], limits: BehaviourLimits) -> list[Gate]:
    """Do texts loop, grow or break more often than the original's?"""
    return [
        _gate(measure, estimate, limits, where=f"long output, {result.decoding}", count=result.prompts)
        for result in results
        for measure, estimate in (
            ("loop_rate", result.loop_rise),
            ("length_inflation", result.length_inflation),
            ("invalid_rate", result.invalid_rise),
        )
    ]


def _gate(measure: str, estimate: Estimate, limits: BehaviourLimits, *, where: str, count: int) -> Gate:
    limit: float = getattr(limits, measure)
    verdict = judge(estimate, limit)
    needed = windows_to_decide(estimate, limit=limit, windows=count) if verdict == "INCONCLUSIVE" else None
    return Gate(
        measure=measure, limit=limit, estimate=estimate, verdict=verdict, text=where,
        source=getattr(limits, LIMITS[measure]), windows_more=max(1, needed - count) if needed else None,
    )  # fmt: skip


def task_notes(results: Sequence[TaskResult], gates: Sequence[Gate]) -> list[str]:
    """What a reader must know to weigh the gates."""
    lopsided = [
        f"{result.task}: {result.lost} answers were lost and {result.won} won, more lopsided than chance "
        f"(exact McNemar p {result.mcnemar_p:.2g})"
        for result in gated(results)
        if result.mcnemar_p is not None and result.mcnemar_p < SIGNIFICANT
    ]
    return _doubts(gates, {result.task: result.items for result in results}, "items") + lopsided


def long_notes(results: Sequence[LongOutput], gates: Sequence[Gate]) -> list[str]:
    """The same for long texts."""
    looping = [
        f"long output, {result.decoding}: {result.reference.loop_rate.value:.0%} of the original's own texts loop"
        for result in results
        if result.reference.loop_rate.value > OFTEN
    ]
    return _doubts(gates, {gate.text: results[0].prompts for gate in gates}, "prompts") + looping


def _doubts(gates: Sequence[Gate], counts: Mapping[str, int], unit: str) -> list[str]:
    found = []
    for gate in gates:
        if gate.verdict == "INCONCLUSIVE":
            more = gate.windows_more
            cure = f"about {more} more would decide it" if more else "it lies on the limit"
            measure = gate.measure.replace("_", " ")
            found.append(f"{gate.text}: {measure} is too uncertain with {counts[gate.text]} {unit}; {cure}")
    return found
