"""lm-evaluation-harness through our scorer: its own figures for the original, and what an artifact lost."""

from __future__ import annotations

import importlib.util
import json
import math
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bitwright import api
from bitwright.api.behaviour import HARNESS, Behaviour
from bitwright.calibration.corpora import windows_from_files
from bitwright.cli.app import main
from bitwright.core.documents import read_document
from bitwright.core.errors import EnvironmentFault, InputError, UsageError
from bitwright.core.plan import CalibrationPlan
from bitwright.core.protocols import SILENT
from bitwright.core.records import ValidationRecord
from bitwright.evaluation.lockstep import first_scored
from bitwright.formats.sniff import open_source
from bitwright.modeling.demo import write_demo

TASKS = Path(__file__).parent / "local_tasks"
FILES = tuple(str(TASKS / f"{name}.yaml") for name in ("everyday", "short_answers"))
LIMIT = 16
WINDOW = 96
PROSE = (
    "The river runs through a wide valley, and on both of its banks farmers grow barley and beans. In spring the water "
    "rises and covers the lower meadows, which is why the old houses stand on the hill. A narrow road leads from the "
    "church to the mill, where flour was ground until the railway came. Now the mill is a museum, and its wheel turns "
    "only on Sundays, when children from the town come to see how their great-grandparents lived and worked. "
)
ROLLING = """
task: local_text
dataset_path: json
dataset_kwargs: {data_files: {test: texts.jsonl}}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}, {metric: bits_per_byte}]
"""
harness = pytest.mark.skipif(importlib.util.find_spec(HARNESS) is None, reason="make tasks installs lm-eval")


def test_a_missing_harness_is_said_before_anything_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="lm-eval") as error:
        Behaviour(tasks=("arc_easy",)).check("gguf")
    assert error.value.hint == "pip install 'bitwright[tasks]'"
    Behaviour().check("gguf")


def test_the_tasks_that_ship_are_whole() -> None:
    choices = [json.loads(line) for line in (TASKS / "everyday.jsonl").read_text().splitlines()]
    answers = [json.loads(line) for line in (TASKS / "short_answers.jsonl").read_text().splitlines()]
    assert (len(choices), len(answers)) == (100, 80)
    assert all(len(set(item["choices"])) == 4 for item in choices)
    for items in (choices, answers):
        assert len({item["question"] for item in items}) == len(items)
    places = [item["answer"] for item in choices]
    assert min(places.count(place) for place in range(4)) > 10


@pytest.mark.slow
@harness
def test_unknown_tasks_and_broken_files_are_refused(tmp_path: Path) -> None:
    broken, nameless = tmp_path / "broken.yaml", tmp_path / "nameless.yaml"
    broken.write_text("task: [")
    nameless.write_text("output_type: generate_until")
    with pytest.raises(UsageError, match="arc_eazy") as error:
        Behaviour(tasks=("arc_eazy",)).check("gguf")
    assert "arc_easy" in str(error.value.hint)
    for path in (broken, nameless, tmp_path / "absent.yaml"):
        with pytest.raises(InputError, match=path.name):
            Behaviour(tasks=(str(path),)).check("gguf")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "base"
    write_demo(folder)
    return folder


@pytest.mark.slow
@harness
def test_the_originals_figures_are_the_harnesss_own(demo: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    from bitwright.evaluation.tasks.run import ask, load_tasks
    from bitwright.evaluation.tasks.scorer import SourceScorer

    tasks, manager = load_tasks(FILES)
    ours = ask(
        SourceScorer(open_source(demo), AutoTokenizer.from_pretrained(demo), progress=SILENT),
        tasks,
        manager,
        limit=LIMIT,
    )
    theirs = ask(HFLM(pretrained=str(demo), dtype="float32", device="cpu", batch_size=8), tasks, manager, limit=LIMIT)
    assert ours.items.keys() == theirs.items.keys()
    assert {metric for _, metric, _ in ours.items} == {"acc", "acc_norm", "exact_match"}
    assert ours.left_out == theirs.left_out == ()
    for key, items in ours.items.items():
        assert items.scores.tolist() == theirs.items[key].scores.tolist()
        assert items.prompts == theirs.items[key].prompts
        assert 0.2 < items.scores.mean() < 1  # neither at chance nor perfect


@pytest.mark.slow
@harness
def test_perplexity_of_a_local_text_is_the_harnesss_own(demo: Path, tmp_path: Path) -> None:
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from bitwright.evaluation.tasks.run import ask, hold_together, load_tasks
    from bitwright.evaluation.tasks.scorer import SourceScorer

    lines = [
        json.dumps({"text": text}) for text in (PROSE * 3, PROSE, "Water boils.")
    ]  # over windows, within one, short
    (tmp_path / "texts.jsonl").write_text("\n".join(lines))
    (tmp_path / "rolling.yaml").write_text(ROLLING)
    tasks, manager = load_tasks([str(tmp_path / "rolling.yaml")])
    scorer = SourceScorer(open_source(demo), AutoTokenizer.from_pretrained(demo), progress=SILENT)
    scorer.max_length = WINDOW
    ours = ask(scorer, tasks, manager, limit=None)
    model = HFLM(pretrained=str(demo), dtype="float32", device="cpu", max_length=WINDOW)
    theirs = simple_evaluate(model, tasks=tasks, bootstrap_iters=0, task_manager=manager)["results"]["local_text"]
    found = {result.metric: result.reference for result in hold_together(ours, ours)}
    assert found.keys() == {"word_perplexity", "byte_perplexity", "bits_per_byte"}
    for metric, estimate in found.items():
        assert estimate.value == pytest.approx(theirs[f"{metric},none"], rel=1e-5)
        assert estimate.low < estimate.value < estimate.high


@pytest.mark.slow
@harness
def test_validates_perplexity_is_the_harnesss_on_the_same_windows(demo: Path, tmp_path: Path) -> None:
    from lm_eval.models.huggingface import HFLM

    text = tmp_path / "text.txt"
    text.write_text(PROSE * 4)
    made = tmp_path / "bf16"
    api.quantize(api.plan(demo, type="BF16", calibration=CalibrationPlan(source=())), made)
    record = api.validate(made, demo, texts=[text], windows=3, length=WINDOW)
    (drawn,) = record.texts
    windows = windows_from_files([str(text)], demo, 3, WINDOW).tokens.tolist()
    first = first_scored(WINDOW) + 1  # the first token that is predicted from a scored position
    asked = [(("", ""), window[:first], window[first:]) for window in windows]
    model = HFLM(pretrained=str(demo), dtype="float32", device="cpu", max_length=WINDOW)
    answers = model._loglikelihood_tokens(asked, disable_tqdm=True)
    tokens = sum(len(answer) for _, _, answer in asked)
    theirs = math.exp(-sum(value for value, _ in answers) / tokens)
    assert drawn.scored_tokens == tokens
    assert drawn.perplexity_reference.value == pytest.approx(theirs, rel=1e-5)
    assert drawn.perplexity_artifact.value == pytest.approx(theirs, rel=0.05)  # cast to 16 bits


@pytest.mark.slow
@harness
def test_an_artifact_is_held_against_its_original_item_by_item(demo: Path, tmp_path: Path) -> None:
    made, out = tmp_path / "q4", tmp_path / "validation.json"
    text = tmp_path / "text.txt"
    text.write_text("The farmer walked along the river, and counted his sheep before the evening came. " * 60)
    api.quantize(api.plan(demo, type="Q4_0", method="rtn", calibration=CalibrationPlan(source=())), made)
    words = ["--text", text, "--windows", "2", "--length", "32", "--task-limit", LIMIT, "--out", out]
    main(["validate", *map(str, [made, "--reference", demo, "--task", FILES[0], "--task", FILES[1], *words])])
    record = read_document(ValidationRecord, out)
    assert [(task.task, task.metric) for task in record.tasks] == [
        ("everyday", "acc"), ("everyday", "acc_norm"), ("short_answers", "exact_match"),
    ]  # fmt: skip
    for task in record.tasks:
        assert task.items == LIMIT
        assert task.lost is not None
        assert task.won is not None
        change = task.artifact.value - task.reference.value
        assert change == pytest.approx((task.won - task.lost) / LIMIT)
    gates = [(gate.text, gate.measure) for gate in record.gates if gate.measure.startswith("task")]
    assert gates == [(name, gate) for name in ("everyday", "short_answers") for gate in ("task_drop", "task_flips")]
    assert f"--task {FILES[0]}" in record.command
