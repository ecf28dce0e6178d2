"""What an artifact does beside its original: answers to tasks, long texts, the engine."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.core.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    from bitwright.calibration.corpora import TokenWindows
    from bitwright.core.plan import ArtifactFormat, ModelFacts
    from bitwright.core.protocols import Progress, WeightSource
    from bitwright.core.records import ValidationRecord
    from bitwright.facts.behaviour import BehaviourLimits
    from bitwright.facts.thresholds import Thresholds

HARNESS = "lm_eval"
LONG_TOKENS = 512
AUTO = "auto"  # an engine that is started for the check
TEMPERATURE = 0.8  # the usual default of engines


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """What is asked of both models beyond predictions.

    `tasks` are names or YAML files of lm-evaluation-harness, of which `task_limit` items each are asked, else all.
    `long_prompts` beginnings of windows are continued, greedily and sampled, by `long_tokens` at most.
    `through` is the address of a server that serves the artifact, or `auto`, which starts one; `api_key` is its key.
    """

    tasks: tuple[str, ...] = ()
    task_limit: int | None = None
    long_prompts: int | None = None
    long_tokens: int = LONG_TOKENS
    through: str | None = None
    api_key: str | None = None

    def check(self, kind: ArtifactFormat) -> None:
        """Refuse before anything long begins: the harness is missing, a file is broken, a name is unknown, nobody
        answers at an address, no engine here serves an artifact of this kind."""
        if self.through:
            self._check_engine(kind)
        if self.tasks:
            self._check_tasks()

    def _check_engine(self, kind: ArtifactFormat) -> None:
        from bitwright.api.service import why_not_served
        from bitwright.engines.logprobs import Listener

        assert self.through is not None
        if self.through != AUTO:
            with Listener(self.through, api_key=self.api_key) as listener:
                listener.listen(listener.server().model, [[0]], new_tokens=1, top=1)
        elif (missing := why_not_served(kind)) is not None:
            raise EnvironmentFault(missing, hint="give --through the address of a server elsewhere")

    def _check_tasks(self) -> None:
        if importlib.util.find_spec(HARNESS) is None:
            raise EnvironmentFault(
                "the package `lm-eval` is not installed, which tasks are run with",
                hint="pip install 'bitwright[tasks]'",
            )
        from bitwright.evaluation.tasks.run import load_tasks

        load_tasks(self.tasks)

    def fitting(self, windows: list[TokenWindows], model: ModelFacts) -> list[TokenWindows]:
        """The windows, once it is sure that long texts can begin and end with them. Raises `UsageError`."""
        if self.long_prompts is None:
            return windows
        from bitwright.evaluation.long_output import PROMPT_TOKENS, prompts_of

        prompts_of(windows, self.long_prompts)
        if PROMPT_TOKENS + self.long_tokens > model.context:
            raise UsageError(
                f"texts of {self.long_tokens} tokens do not fit behind prompts of {PROMPT_TOKENS}: the model attends "
                f"to {model.context}",
                hint=f"use --long-tokens {model.context - PROMPT_TOKENS} or less",
            )
        return windows

    def flags(self) -> dict[str, object]:
        """As the command line says it."""
        return {
            "--task": self.tasks, "--task-limit": self.task_limit if self.tasks else None, "--long": self.long_prompts,
            "--long-tokens": self.long_tokens if self.long_prompts else None, "--through": self.through,
        }  # fmt: skip


NOTHING = Behaviour()


def add_behaviour(
    record: ValidationRecord,
    reference: WeightSource,
    artifact: WeightSource,
    asked: Behaviour,
    limits: Thresholds,
    windows: Sequence[TokenWindows],
    folder: Path,
    place: Path,
    seed: int,
    progress: Progress,
) -> ValidationRecord:
    """The record with results and gates of what was asked. `folder` holds the tokenizer of both models; long texts
    begin as `windows` do. What gives no numbers has failed already, and is asked nothing more."""
    from bitwright.facts.behaviour import behaviour_limits

    if any(gate.measure == "finite_logits" and gate.verdict == "FAIL" for gate in record.gates):
        return _not_asked(record, asked)
    models, row = (reference, artifact), behaviour_limits(limits)
    if asked.tasks:
        record = _add_tasks(record, models, asked, row, folder, seed, progress)
    if asked.long_prompts:
        record = _add_long(record, models, asked, row, windows, folder, seed, progress)
    if asked.through:
        from bitwright.api.engine import check_engine
        from bitwright.evaluation.behaviour import with_engine

        check = check_engine(
            asked.through, place, models, windows, folder, limit=row.engine_kl, api_key=asked.api_key, progress=progress
        )
        record = with_engine(record, check, row)
    return record


def _not_asked(record: ValidationRecord, asked: Behaviour) -> ValidationRecord:
    """The record with a note about what was asked in vain."""
    import msgspec

    left = {"tasks": asked.tasks, "long texts": asked.long_prompts, "the engine": asked.through}
    if not any(left.values()):
        return record
    names = ", ".join(name for name, value in left.items() if value)
    return msgspec.structs.replace(record, notes=(*record.notes, f"{names}: not tried, the artifact gives no numbers"))


def _add_tasks(
    record: ValidationRecord,
    models: tuple[WeightSource, WeightSource],
    asked: Behaviour,
    limits: BehaviourLimits,
    folder: Path,
    seed: int,
    progress: Progress,
) -> ValidationRecord:
    """One model after the other, which lets the first go before the second comes."""
    from bitwright.calibration.corpora import load_tokenizer
    from bitwright.evaluation.behaviour import with_tasks
    from bitwright.evaluation.tasks.run import ask, hold_together, load_tasks
    from bitwright.evaluation.tasks.scorer import SourceScorer

    tasks, manager = load_tasks(asked.tasks)
    tokenizer = load_tokenizer(folder)
    answers = [
        ask(SourceScorer(model, tokenizer, progress=progress, seed=seed), tasks, manager, limit=asked.task_limit)
        for model in models
    ]
    return with_tasks(
        record, hold_together(*answers), limits, left_out=sorted({one for answer in answers for one in answer.left_out})
    )


def _add_long(
    record: ValidationRecord,
    models: tuple[WeightSource, WeightSource],
    asked: Behaviour,
    limits: BehaviourLimits,
    windows: Sequence[TokenWindows],
    folder: Path,
    seed: int,
    progress: Progress,
) -> ValidationRecord:
    """Greedy and sampled texts of one model, then those of the other: one whole model in memory at a time."""
    from bitwright.calibration.corpora import load_tokenizer
    from bitwright.evaluation.behaviour import with_long_output
    from bitwright.evaluation.long_output import compare, prompts_of, write
    from bitwright.modeling.continuation import Decoding

    assert asked.long_prompts is not None
    tokenizer = load_tokenizer(folder)
    ends = _end_tokens(folder)
    ways = [
        Decoding(new_tokens=asked.long_tokens, ends=ends, temperature=temperature, seed=seed)
        for temperature in (0.0, TEMPERATURE)
    ]
    prompts = prompts_of(windows, asked.long_prompts)
    here, there = (write(model, prompts, ways, progress=progress) for model in models)
    results = [compare(*pair, tokenizer.decode) for pair in zip(here, there, ways, strict=True)]
    return with_long_output(record, results, limits)


def _end_tokens(folder: Path) -> frozenset[int]:
    """What ends a text by any file of the original: turns of a chat may end by a token that config.json leaves out."""
    from bitwright.formats.settings import read_settings

    return frozenset(one for token in read_settings(folder).special if token.role == "eos" for one in token.ids)
