"""Gates on what an artifact does, and the record that holds them beside those on what it predicts.

The first metric of a task is gated, as its author lists them; the others are shown. Not here: how they were measured
(tasks/), the limits (facts).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bitwright.core.behaviour import TaskResult
from bitwright.core.records import Gate, ValidationRecord
from bitwright.evaluation.stats import windows_to_decide
from bitwright.evaluation.verdict import judge, overall
from bitwright.facts.behaviour import BehaviourLimits

SIGNIFICANT = 0.05


def with_tasks(record: ValidationRecord, results: Sequence[TaskResult], limits: BehaviourLimits) -> ValidationRecord:
    """The record with task results, their gates, and the verdict over all gates."""
    gates = task_gates(results, limits)
    return msgspec.structs.replace(
        with_gates(record, gates, task_notes(results, gates)), tasks=(*record.tasks, *results)
    )


def with_gates(record: ValidationRecord, gates: Sequence[Gate], notes: Sequence[str]) -> ValidationRecord:
    """The record with more gates and notes."""
    both = (*record.gates, *gates)
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
    found = []
    for result in gated(results):
        for measure, estimate in (("task_drop", result.drop), ("task_flips", result.flips)):
            if estimate is None:
                continue
            limit: float = getattr(limits, measure)
            verdict = judge(estimate, limit)
            found.append(
                Gate(
                    measure=measure,
                    limit=limit,
                    estimate=estimate,
                    verdict=verdict,
                    source=limits.source,
                    text=result.task,
                )
            )
    return found


def task_notes(results: Sequence[TaskResult], gates: Sequence[Gate]) -> list[str]:
    """What a reader must know to weigh the gates."""
    items = {result.task: result.items for result in results}
    found = []
    for gate in gates:
        if gate.verdict == "INCONCLUSIVE":
            needed = windows_to_decide(gate.estimate, limit=gate.limit, windows=items[gate.text])
            cure = f"about {needed} would decide it" if needed else "it lies on the limit"
            measure = gate.measure.replace("_", " ")
            found.append(f"{gate.text}: {measure} is too uncertain with {items[gate.text]} items; {cure}")
    for result in gated(results):
        if result.mcnemar_p is not None and result.mcnemar_p < SIGNIFICANT:
            found.append(
                f"{result.task}: {result.lost} answers were lost and {result.won} won, more lopsided than chance "
                f"(exact McNemar p {result.mcnemar_p:.2g})"
            )
    return found
