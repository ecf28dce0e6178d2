"""`validate` with more than predictions asked of both models."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from safetensors.torch import load_file, save_file

from bitwright.core.records import ValidationRecord
from command_line import Run

FEW = ("--windows", "4", "--length", "64")


def test_long_texts_are_measured_and_gated(run: Run, tiny: Path, artifact: Path, judged: Path) -> None:
    words = ("validate", artifact, "--reference", tiny, "--text", judged, *FEW, "--long", "3", "--long-tokens", "40")
    record = msgspec.json.decode(run(*words, "--json").out, type=ValidationRecord)
    assert [result.decoding for result in record.long_output] == ["greedy", "temperature 0.8"]
    for result in record.long_output:
        assert (result.prompts, result.new_tokens) == (3, 40)
        assert result.artifact.tokens.value <= 40
    gated = {gate.text for gate in record.gates if gate.measure == "loop_rate"}
    assert gated == {"long output, greedy", "long output, temperature 0.8"}
    assert "--long 3 --long-tokens 40" in record.command
    assert "parts after" in run(*words).out


def test_more_prompts_than_windows_and_too_long_texts_are_refused(
    run: Run, tiny: Path, artifact: Path, judged: Path
) -> None:
    words = ("validate", artifact, "--reference", tiny, "--text", judged, *FEW)
    many, endless = run(*words, "--long", "5"), run(*words, "--long", "3", "--long-tokens", "4000")
    assert (many.code, endless.code) == (2, 2)
    assert "4 windows" in many.errors[0]
    assert "--long-tokens 224" in endless.hints[0]


def test_a_server_that_is_not_there_is_said_at_once(run: Run, tiny: Path, artifact: Path) -> None:
    answer = run("validate", artifact, "--reference", tiny, "--through", "http://127.0.0.1:9")
    assert answer.code == 3
    assert "cannot be reached" in answer.errors[0]


def test_an_artifact_that_gives_no_numbers_fails_and_is_asked_nothing_more(
    run: Run, tiny: Path, packed: Path, judged: Path, tmp_path: Path
) -> None:
    ruined = Path(shutil.copytree(packed, tmp_path / "ruined"))
    weights = load_file(ruined / "model.safetensors")
    weights["model.layers.0.mlp.down_proj.weight_scale"][0] = 1e36
    save_file(weights, ruined / "model.safetensors", metadata={"format": "pt"})
    words = ("validate", ruined, "--reference", tiny, "--text", judged, *FEW, "--long", "3", "--long-tokens", "40")
    answer = run(*words, "--json")
    record = msgspec.json.decode(answer.out, type=ValidationRecord)
    assert (answer.code, record.verdict, record.long_output) == (1, "FAIL", ())
    assert "long texts: not tried, the artifact gives no numbers" in record.notes
