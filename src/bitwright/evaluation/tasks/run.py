"""Tasks on two models, one after the other, with the same prompts, and what came out of it item by item.

A task is a name of lm-evaluation-harness, or a YAML file in its form. Data files that such a file names lie relative to
it, so that a task and its data can be moved together, and are read without a network.
Imported only where the harness is installed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from numpy.typing import NDArray

from bitwright.core.behaviour import TaskResult
from bitwright.core.errors import InputError, UsageError, nearest
from bitwright.evaluation import paired

YAML = (".yaml", ".yml")
Key = tuple[str, str, str]  # task, metric, filter


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """One metric of one task on one model: a score of each item, and which prompts they are of."""

    scores: NDArray[np.float64]
    prompts: tuple[str, ...]  # hashes, by item
    higher_is_better: bool
    version: str


def load_tasks(tasks: Sequence[str]) -> tuple[list[str | dict[str, Any]], TaskManager]:
    """Names and files as the harness takes them. Raises `InputError` for a broken file, `UsageError` for a name that
    the harness does not know."""
    loaded = [_from_file(Path(task)) if task.endswith(YAML) else task for task in tasks]
    names = [task for task in loaded if isinstance(task, str)]
    with quiet():
        manager = TaskManager(include_defaults=bool(names))
    for name in names:
        if not manager.match_tasks([name]):
            raise UsageError(
                f"lm-evaluation-harness has no task `{name}`",
                hint=nearest(name, manager.all_tasks, "`lm-eval ls tasks` lists them; a file ends in .yaml"),
            )
    return loaded, manager


def _from_file(path: Path) -> dict[str, Any]:
    try:
        task: dict[str, Any] = load_yaml(path)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(
            f"`{path}` is no task file: {_first_line(error)}", hint="write it in lm-eval's form, YAML"
        ) from error
    if not isinstance(task, dict) or "task" not in task:
        raise InputError(f"`{path}` names no task", hint="add a line `task: NAME`")
    kwargs = task.get("dataset_kwargs") or {}
    files = kwargs.get("data_files")
    if isinstance(files, str):
        files = str(path.parent / files)
    elif isinstance(files, Mapping):
        files = {split: str(path.parent / file) for split, file in files.items()}
    return task | {"dataset_kwargs": kwargs | {"data_files": files}} if files else task


def ask(
    scorer: Any, tasks: Sequence[str | dict[str, Any]], manager: TaskManager, *, limit: int | None
) -> dict[Key, Items]:
    """All per-item metrics of all tasks for one model."""
    with quiet():
        answer = simple_evaluate(
            scorer, tasks=[*tasks], limit=limit, bootstrap_iters=0, log_samples=True, task_manager=manager
        )
    return dict(_metrics(answer))


def _metrics(answer: Mapping[str, Any]) -> Iterator[tuple[Key, Items]]:
    for task, samples in answer["samples"].items():
        by_key: dict[Key, list[Mapping[str, Any]]] = {}
        for sample in sorted(samples, key=lambda sample: int(sample["doc_id"])):
            for metric in sample["metrics"]:
                by_key.setdefault((task, metric, sample["filter"]), []).append(sample)
        for key, group in by_key.items():
            scores = [sample[key[1]] for sample in group]
            if all(isinstance(score, (bool, int, float, np.number)) for score in scores):
                yield (
                    key,
                    Items(
                        scores=np.array(scores, dtype=np.float64),
                        prompts=tuple(sample["prompt_hash"] for sample in group),
                        higher_is_better=bool(answer["higher_is_better"].get(task, {}).get(key[1], True)),
                        version=str(answer["versions"].get(task, "")),
                    ),
                )


def hold_together(reference: Mapping[Key, Items], artifact: Mapping[Key, Items]) -> tuple[TaskResult, ...]:
    """Item by item. Metrics that are no number of an item, as perplexity of a corpus, are left out."""
    return tuple(_result(key, items, artifact[key]) for key, items in reference.items())


def _result(key: Key, here: Items, there: Items) -> TaskResult:
    assert here.prompts == there.prompts, "two models were asked different things"
    task, metric, filter_name = key
    result = TaskResult(
        task=task,
        metric=metric,
        filter=filter_name,
        items=len(here.scores),
        higher_is_better=here.higher_is_better,
        reference=paired.mean(here.scores),
        artifact=paired.mean(there.scores),
        prompts_sha256=hashlib.sha256("".join(here.prompts).encode()).hexdigest(),
        version=here.version,
    )
    return paired.compare(result, here.scores, there.scores)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back the harness's log, bars and remarks: our progress says how far it is."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        log.setLevel(level)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
