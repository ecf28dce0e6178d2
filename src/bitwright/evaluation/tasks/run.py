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
import math
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
from bitwright.core.estimate import Estimate
from bitwright.evaluation import paired
from bitwright.evaluation.stats import MAX_NLL, jackknife

YAML = (".yaml", ".yml")
WHOLE_TEXTS = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte")  # of log-likelihoods, not means
SAME = 1e-6  # relative: the harness adds scores up in another order
Key = tuple[str, str, str]  # task, metric, filter


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Items:
    """One metric of one task on one model, and which prompts it is of.

    `scores` [items] are what the figure is the mean of; of a perplexity [items, 2], log-likelihoods and the words or
    bytes that they are of.
    """

    scores: NDArray[np.float64]
    prompts: tuple[str, ...]  # hashes, by item
    higher_is_better: bool
    version: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What one model said to all tasks; `left_out` are metrics that no item has a share of, as `TASK: METRIC`."""

    items: dict[Key, Items]
    left_out: tuple[str, ...]


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


def ask(scorer: Any, tasks: Sequence[str | dict[str, Any]], manager: TaskManager, *, limit: int | None) -> Answers:
    """All metrics of all tasks for one model, item by item."""
    with quiet():
        answer = simple_evaluate(
            scorer, tasks=[*tasks], limit=limit, bootstrap_iters=0, log_samples=True, task_manager=manager
        )
    items, left_out = {}, []
    for key, group in _by_metric(answer["samples"]):
        task, metric, filter_name = key
        scores = _scores(
            [sample[metric] for sample in group], metric, answer["results"][task][f"{metric},{filter_name}"]
        )
        if scores is None:
            left_out.append(f"{task}: {metric}")
            continue
        items[key] = Items(
            scores=scores,
            prompts=tuple(sample["prompt_hash"] for sample in group),
            higher_is_better=bool(answer["higher_is_better"].get(task, {}).get(metric, True)),
            version=str(answer["versions"].get(task, "")),
        )
    return Answers(items=items, left_out=tuple(left_out))


def _by_metric(samples: Mapping[str, Any]) -> Iterator[tuple[Key, list[Mapping[str, Any]]]]:
    """Samples of each metric, in the order of the task's items."""
    for task, of_task in samples.items():
        by_key: dict[Key, list[Mapping[str, Any]]] = {}
        for sample in sorted(of_task, key=lambda sample: int(sample["doc_id"])):
            for metric in sample["metrics"]:
                by_key.setdefault((task, metric, sample["filter"]), []).append(sample)
        yield from by_key.items()


def _scores(found: Sequence[Any], metric: str, figure: Any) -> NDArray[np.float64] | None:
    """What each item adds to the harness's `figure`, or `None` where that is neither a mean over items nor a
    perplexity of more than one."""
    if metric in WHOLE_TEXTS:
        pairs = [one if isinstance(one, (tuple, list)) else (one, 1.0) for one in found]
        return np.array(pairs, dtype=np.float64) if len(pairs) > 1 else None
    if not all(isinstance(one, (bool, int, float, np.number)) for one in found):
        return None
    scores = np.array(found, dtype=np.float64)
    countable = len(scores) > 1 or paired.is_binary(scores)
    return scores if countable and math.isclose(scores.mean(), figure, rel_tol=SAME, abs_tol=SAME) else None


def hold_together(reference: Answers, artifact: Answers) -> tuple[TaskResult, ...]:
    """Item by item, what both have."""
    return tuple(
        _result(key, items, artifact.items[key]) for key, items in reference.items.items() if key in artifact.items
    )


def _result(key: Key, here: Items, there: Items) -> TaskResult:
    assert here.prompts == there.prompts, "two models were asked different things"
    task, metric, filter_name = key
    result = TaskResult(
        task=task,
        metric=metric,
        filter=filter_name,
        items=len(here.scores),
        higher_is_better=here.higher_is_better,
        reference=_figure(metric, here.scores),
        artifact=_figure(metric, there.scores),
        prompts_sha256=hashlib.sha256("".join(here.prompts).encode()).hexdigest(),
        version=here.version,
    )
    return result if metric in WHOLE_TEXTS else paired.compare(result, here.scores, there.scores)


def _figure(metric: str, scores: NDArray[np.float64]) -> Estimate:
    if metric not in WHOLE_TEXTS:
        return paired.mean(scores)
    if metric == "bits_per_byte":
        return jackknife(scores, lambda means: -means[..., 0] / means[..., 1] / math.log(2), floor=0.0)
    return jackknife(scores, lambda means: np.exp(np.minimum(-means[..., 0] / means[..., 1], MAX_NLL)), floor=1.0)


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
