"""MODEL as a name of the catalogue: planned without a checkpoint, refused where weights are needed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from checkpoints import write_checkpoint
from command_line import run_main

Capture = pytest.CaptureFixture[str]


def test_a_plan_needs_no_checkpoint(capsys: Capture) -> None:
    answer = run_main(capsys, "plan", "llama-3.1-70b", "--target", "h100-sxm:2", "--json")
    assert answer.code == 0
    plan = json.loads(answer.out)
    assert plan["model"]["catalogue"] == "meta-llama/Llama-3.1-70B-Instruct"
    assert plan["model"]["parameters"] == 70_553_706_496
    assert plan["type"] == "FP8_DYNAMIC"
    assert "`quantize` needs the checkpoint" in plan["warnings"][0]


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(Path("llama-3.1-70b"))
    answer = run_main(capsys, "plan", "llama-3.1-70b", "--target", "h100-sxm", "--json")
    assert "catalogue" not in json.loads(answer.out)["model"] or not json.loads(answer.out)["model"]["catalogue"]
    assert json.loads(answer.out)["model"]["vocab"] == 320


@pytest.mark.parametrize(
    "words",
    [
        ("quantize", "qwen3-8b", "--out", "q4", "--type", "Q4_K_M"),
        ("ship", "qwen3-8b", "--out", "q4", "--target", "h200"),
        ("imatrix", "qwen3-8b", "--out", "matrix.gguf"),
        ("plan", "qwen3-8b", "--lora", "."),
    ],
)
def test_what_needs_weights_names_their_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run_main(capsys, *words)
    assert answer.code == 2
    assert "error: `qwen3-8b` is known by its dimensions alone: there are no weights" in answer.err
    assert "Qwen/Qwen3-8B" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_plan_of_dimensions_is_not_quantized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    write_checkpoint(tmp_path / "model")
    assert run_main(capsys, "plan", "qwen3-8b", "--target", "h200", "--out", "plan.json").code == 0
    answer = run_main(capsys, "quantize", "model", "--plan", "plan.json", "--out", "q4")
    assert answer.code == 2
    assert "there are no weights" in answer.err


def test_an_unknown_name_is_answered_with_the_nearest(capsys: Capture) -> None:
    answer = run_main(capsys, "plan", "lama-3.1-70b")
    assert answer.code == 2
    assert "did you mean `llama-3.1-70b`?" in answer.err
    assert "bitwright facts models" in answer.err
