"""What a validation says of an artifact's behaviour, as tables."""

from __future__ import annotations

from collections.abc import Sequence

from bitwright.cli.screen import Screen
from bitwright.core.behaviour import EngineCheck, LongOutput
from bitwright.core.records import ValidationRecord


def print_behaviour(page: Screen, record: ValidationRecord) -> None:
    """What was measured of tasks, long texts, and the engine."""
    if record.tasks:
        page.table(
            ("task", "metric", "items", "original", "artifact", "lost", "won", "p"),
            [
                (
                    task.task,
                    task.metric if task.filter == "none" else f"{task.metric}, {task.filter}",
                    str(task.items),
                    f"{task.reference.value:.4g}",
                    f"{task.artifact.value:.4g}",
                    "" if task.lost is None else str(task.lost),
                    "" if task.won is None else str(task.won),
                    "" if task.mcnemar_p is None else f"{task.mcnemar_p:.2g}",
                )
                for task in record.tasks
            ],
        )
    if record.long_output:
        _long_output(page, record.long_output)
    if record.engine is not None:
        _engine(page, record.engine)


def _long_output(page: Screen, results: Sequence[LongOutput]) -> None:
    """One row for each way of decoding; rates are those of the original, then of the artifact."""

    def both(result: LongOutput, rate: str) -> str:
        return f"{getattr(result.reference, rate).value:.0%} {getattr(result.artifact, rate).value:.0%}"

    page.table(
        ("long output", "prompts", "parts after", "length", "loop", "end", "invalid"),
        [
            (
                result.decoding,
                str(result.prompts),
                f"{result.first_divergence.value:.0f} of {result.new_tokens}",
                f"{result.length_inflation.value:.2f}",
                both(result, "loop_rate"),
                both(result, "end_rate"),
                both(result, "invalid_rate"),
            )
            for result in results
        ],
    )


def _engine(page: Screen, check: EngineCheck) -> None:
    """How far the engine departs, and who is suspected."""
    page.line(
        f"{check.engine} at {check.url}: KL {check.kl_engine.value:.2g} from the decoded artifact, which is "
        f"{check.kl_decoded.value:.2g} from the original; same top token {check.top1_agreement.value:.1%}"
    )
    page.table(("suspect", "", "evidence"), [(one.name, one.finding, one.evidence) for one in check.suspects])
