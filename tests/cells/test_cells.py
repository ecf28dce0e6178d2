"""Every cell of the table: written by us, loaded by a loader that is not ours, and its logits are those of our decode.

The model (model.py) is written once, an artifact once for all its loaders, and removed after the last of them: together
they are 7 GB. Rows about vision-language models have a small random model each. GPTQModel and vLLM answer in one
process each, for all cells of theirs that were selected.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.core.plan import CalibrationPlan, DeviceFacts
from bitwright.facts.model import model_facts
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from bitwright.planner.vision import part_types
from cells import record
from cells.loaders import ELSEWHERE, HERE, PROMPT, VARIABLE, Answer, decoded, distance, elsewhere, other_python
from cells.model import write_first_blocks
from cells.table import VLLM, Cell, Row, cells
from vision_models import write_vision_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1600),  # the first of a loader elsewhere waits for all of its cells
    pytest.mark.filterwarnings("ignore"),  # libraries' remarks
]

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
CELLS = list(cells())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("cells")
    (place / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 120)
    return write_first_blocks(place / "model")


def model_of(row: Row, folder: Path) -> Path:
    """The model that a row is about."""
    if not row.vision:
        return folder
    other = folder.with_name(row.vision)
    return other if other.exists() else write_vision_model(other, row.vision)


class Shelf:
    """Artifacts of rows and methods: made once, there until the last chosen cell that loads them has been judged."""

    def __init__(self, folder: Path, chosen: list[Cell]) -> None:
        self.folder = folder
        self.made: dict[tuple[str, ...], Path] = {}
        self.waiting = Counter(cell.key[:3] for cell in chosen)

    def take(self, row: Row, method: str) -> Path:
        key = (row.format, row.type, method)
        if key not in self.made:
            self.made[key] = self._write(row, method, self.folder.parent / "-".join(key).replace(" ", "-"))
        return self.made[key]

    def _write(self, row: Row, method: str, out: Path) -> Path:
        calibration = CalibrationPlan(source=(str(self.folder.parent / "text.txt"),), samples=4, length=32)
        choices = row.choices(method)
        model, choices["parts"] = model_of(row, self.folder), part_types(*row.parts, few_bits=False)
        plan = make_plan(model_facts(model), DEVICE, use_case="chat", calibration=calibration, **choices)
        done = quantize(plan, model, out)
        assert (plan.format, plan.method) == (row.format, method)
        assert sum(file.bytes for file in done.files) == plan.file_bytes or row.format == "gguf"
        return out

    def judged(self, cell: Cell) -> None:
        """One cell less waits for its artifact."""
        key = cell.key[:3]
        self.waiting[key] -= 1
        if not self.waiting[key] and key in self.made:
            place = self.made.pop(key)
            shutil.rmtree(place) if place.is_dir() else place.unlink()


@pytest.fixture(scope="module")
def chosen(request: pytest.FixtureRequest) -> list[Cell]:
    """The cells that this run was asked for."""
    return [item.callspec.params["cell"] for item in request.session.items if "cell" in params_of(item)]


@pytest.fixture(scope="module")
def shelf(folder: Path, chosen: list[Cell]) -> Shelf:
    return Shelf(folder, chosen)


@pytest.fixture(scope="module")
def abroad(chosen: list[Cell], shelf: Shelf) -> Callable[[Cell, Path], Answer]:
    """Answers of a loader in the other environment."""
    known: dict[str, dict[Path, Answer]] = {}

    def ask(cell: Cell, artifact: Path) -> Answer:
        loader, python = cell.use.loader, other_python()
        if python is None:
            pytest.skip(f"{loader} was not asked: no environment of its own; `make loaders`, or set {VARIABLE}")
        if loader not in known:
            tasks = [(shelf.take(c.row, c.method), c.use.dtype) for c in chosen if c.use.loader == loader]
            known[loader] = elsewhere(python, loader, tasks, artifact.parent)
        return known[loader][artifact]

    return ask


def params_of(item: pytest.Item) -> dict[str, object]:
    return getattr(getattr(item, "callspec", None), "params", {})


def keep(cell: Cell, version: str, **found: object) -> None:
    """Put it into the record when `make cells` asks for that; at once, because all of them take minutes."""
    if record.VARIABLE in os.environ:
        record.merge([record.result(cell, version, **found)])


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(cell.key).replace(" ", "-"))
def test_a_cell(cell: Cell, shelf: Shelf, abroad: Callable[[Cell, Path], Answer]) -> None:
    try:
        judge(cell, shelf.take(cell.row, cell.method), shelf.folder, abroad)
    finally:
        shelf.judged(cell)


def judge(cell: Cell, artifact: Path, folder: Path, abroad: Callable[[Cell, Path], Answer]) -> None:
    """Hold the loader's answer against our decode."""
    use = cell.use
    answer = abroad(cell, artifact) if use.loader in ELSEWHERE else HERE[use.loader](artifact, use.dtype)
    if answer.rows is None:
        assert use.refuses, answer.error
        words = [line.strip() for line in answer.error.split("\n") if use.refuses in line]
        assert words, answer.error
        keep(cell, answer.version, refused=words[0][:240])
        return
    assert use.limit, "this loader was known to refuse: let the table say what it does now"
    count = len(answer.rows)
    # vLLM and GPTQModel compute in their type, transformers only decodes to it
    dtype = torch.bfloat16 if use.dtype == "bfloat16" and use.loader != VLLM else torch.float32
    ours, bare = (
        decoded(place, answer.tokens, weights_only=use.weights_only, dtype=dtype)[-count:]
        for place in (artifact, model_of(cell.row, folder))
    )
    found, moved = distance(answer.rows, ours), distance(ours, bare)
    assert found <= use.limit
    keep(cell, answer.version, distance=found, moved=moved, limit=use.limit)
    assert moved < 1.4, "unrelated logits are no further apart"


def test_the_distance_sees_a_wrong_decode(folder: Path) -> None:
    sound = decoded(folder, PROMPT)
    assert distance(np.roll(sound, 1, axis=-1), sound) > 1  # the head's rows in another order
