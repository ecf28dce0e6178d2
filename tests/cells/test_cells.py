"""Every cell of the table: written by us, loaded by a loader that is not ours, and its logits are those of our decode.

The model (model.py) is written once, an artifact once for all its loaders; rows about vision-language models have a
small random one each. GPTQModel and vLLM answer in one process each, for all cells of theirs that were selected.
"""

from __future__ import annotations

import os
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
Written = Callable[[Row, str], Path]
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


@pytest.fixture(scope="module")
def written(folder: Path) -> Written:
    """Makes the artifact of a row and a method, once."""
    made: dict[tuple[str, str, str], Path] = {}

    def write(row: Row, method: str) -> Path:
        key = (row.format, row.type, method)
        if key not in made:
            calibration = CalibrationPlan(source=(str(folder.parent / "text.txt"),), samples=4, length=32)
            choices = row.choices(method)
            model, choices["parts"] = model_of(row, folder), part_types(*row.parts, few_bits=False)
            plan = make_plan(model_facts(model), DEVICE, use_case="chat", calibration=calibration, **choices)
            out = folder.parent / "-".join(key).replace(" ", "-")
            done = quantize(plan, model, out)
            assert (plan.format, plan.method) == (row.format, method)
            assert sum(file.bytes for file in done.files) == plan.file_bytes or row.format == "gguf"
            made[key] = out
        return made[key]

    return write


@pytest.fixture(scope="module")
def abroad(request: pytest.FixtureRequest, written: Written) -> Callable[[Cell, Path], Answer]:
    """Answers of a loader in the other environment."""
    known: dict[str, dict[Path, Answer]] = {}

    def ask(cell: Cell, artifact: Path) -> Answer:
        loader, python = cell.use.loader, other_python()
        if python is None:
            pytest.skip(f"{loader} was not asked: no environment of its own; `make loaders`, or set {VARIABLE}")
        if loader not in known:
            chosen = [item.callspec.params["cell"] for item in request.session.items if "cell" in params_of(item)]
            tasks = [(written(c.row, c.method), c.use.dtype) for c in chosen if c.use.loader == loader]
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
def test_a_cell(cell: Cell, folder: Path, written: Written, abroad: Callable[[Cell, Path], Answer]) -> None:
    artifact = written(cell.row, cell.method)
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
