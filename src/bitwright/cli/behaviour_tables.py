"""What a validation says of an artifact's behaviour, as tables."""

from __future__ import annotations

from bitwright.cli.screen import Screen
from bitwright.core.records import ValidationRecord


def print_behaviour(page: Screen, record: ValidationRecord) -> None:
    """Tasks, where some were run."""
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
