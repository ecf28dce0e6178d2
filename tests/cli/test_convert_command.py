"""`bitwright convert` on the command line: the document, the table, refusals and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.cli.app import main
from bitwright.core.documents import read_document
from bitwright.core.records import ConversionRecord
from checkpoints import write_checkpoint
from command_line import Run


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models")
    folder = write_checkpoint(place / "model", hidden=128, intermediate=256, layers=1)
    wanted = ["--format", "gptq", "--bits", "4", "--group-size", "32", "--method", "rtn"]
    (place / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 40)
    text = ["--calibration", str(place / "text.txt"), "--samples", "2", "--length", "16"]
    assert main(["quantize", str(folder), "--out", str(place / "out"), *wanted, *text, "--quiet", "--json"]) == 0
    return place / "out"


def test_the_document_is_what_is_on_disk(run: Run, artifact: Path, tmp_path: Path) -> None:
    got = run("convert", str(artifact), "--format", "gguf", "--out", str(tmp_path / "out"), "--json", "--quiet")
    assert (got.code, got.err) == (0, "")
    record = read_document(ConversionRecord, tmp_path / "out" / "conversion.json")
    assert json.loads(got.out) == json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert (record.source_format, record.plan.format, record.plan.type) == ("gptq", "gguf", "Q4_0")
    shown = run("inspect", str(tmp_path / "out"), "--json")
    assert json.loads(shown.out)["types"][0]["type"] == "Q4_0"


def test_the_table_names_the_proof(run: Run, artifact: Path, tmp_path: Path) -> None:
    got = run("convert", str(artifact), "--format", "awq", "--out", str(tmp_path / "out"), "--quiet")
    assert got.code == 0
    assert "values of" in got.out
    assert "decode alike in float32" in got.out


def test_refusals_are_one_line_with_the_command(run: Run, artifact: Path, tmp_path: Path) -> None:
    got = run("convert", str(artifact), "--format", "bitsandbytes", "--out", str(tmp_path / "out"))
    assert got.code == 2
    error, hint = got.err.strip().splitlines()
    assert error.startswith("error: ")
    assert "cannot become bitsandbytes exactly" in error
    assert hint.startswith("hint: quantize the original anew: bitwright quantize ")
    assert not (tmp_path / "out").exists()


def test_inspect_names_the_folder_formats(run: Run, artifact: Path) -> None:
    found = json.loads(run("inspect", str(artifact), "--json").out)
    assert (found["kind"], found["types"][0]["type"]) == ("gptq", "packed 4-bit")


def test_a_dry_run_reads_and_writes_nothing(run: Run, artifact: Path, tmp_path: Path) -> None:
    words = ("convert", str(artifact), "--format", "gguf", "--out", str(tmp_path / "out"), "--dry-run")
    got = run(*words)
    assert got.code == 0
    assert "working memory" in got.out
    assert json.loads(run(*words, "--json").out)["step"] == "convert"
    assert not (tmp_path / "out").exists()
    assert run(*words[:3], "bitsandbytes", *words[4:]).code == 2  # what cannot carry over is refused all the same
