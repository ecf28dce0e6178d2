"""What an artifact does beside its original: tasks."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.core.errors import EnvironmentFault

if TYPE_CHECKING:
    from bitwright.core.protocols import Progress, WeightSource
    from bitwright.core.records import ValidationRecord
    from bitwright.facts.thresholds import Thresholds

HARNESS = "lm_eval"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What is asked of both models beyond predictions.

    `tasks` are names or YAML files of lm-evaluation-harness, of which `task_limit` items each are asked, else all.
    """

    tasks: tuple[str, ...] = ()
    task_limit: int | None = None

    def check(self) -> None:
        """Refuse before anything long begins: the harness is missing, a file is broken, a name is unknown."""
        if not self.tasks:
            return
        if importlib.util.find_spec(HARNESS) is None:
            raise EnvironmentFault(
                "the package `lm-eval` is not installed, which tasks are run with",
                hint="pip install 'bitwright[tasks]'",
            )
        from bitwright.evaluation.tasks.run import load_tasks

        load_tasks(self.tasks)

    def flags(self) -> dict[str, object]:
        """As the command line says it."""
        return {"--task": self.tasks, "--task-limit": self.task_limit if self.tasks else None}


NOTHING = Behaviour()


def add_behaviour(
    record: ValidationRecord,
    reference: WeightSource,
    artifact: WeightSource,
    asked: Behaviour,
    limits: Thresholds,
    *,
    folder: Path,
    seed: int,
    progress: Progress,
) -> ValidationRecord:
    """The record with results and gates of what was asked. `folder` holds the tokenizer of both models."""
    return _add_tasks(record, (reference, artifact), asked, limits, folder, seed, progress) if asked.tasks else record


def _add_tasks(
    record: ValidationRecord,
    models: tuple[WeightSource, WeightSource],
    asked: Behaviour,
    limits: Thresholds,
    folder: Path,
    seed: int,
    progress: Progress,
) -> ValidationRecord:
    """One model after the other, which lets the first go before the second comes."""
    from bitwright.calibration.corpora import load_tokenizer
    from bitwright.evaluation.behaviour import with_tasks
    from bitwright.evaluation.tasks.run import ask, hold_together, load_tasks
    from bitwright.evaluation.tasks.scorer import SourceScorer
    from bitwright.facts.behaviour import behaviour_limits

    tasks, manager = load_tasks(asked.tasks)
    tokenizer = load_tokenizer(folder)
    answers = [
        ask(SourceScorer(model, tokenizer, progress=progress, seed=seed), tasks, manager, limit=asked.task_limit)
        for model in models
    ]
    return with_tasks(record, hold_together(*answers), behaviour_limits(limits))
