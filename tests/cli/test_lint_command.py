"""`bitwright lint`: one finding a line, the code, and the document."""

from __future__ import annotations

import io
import runpy
import sys
from pathlib import Path

import msgspec
import pytest

from bitwright.core.findings import LintRecord
from command_line import Run, check

LINE = "vllm serve Qwen/Qwen3-8B --host 127.0.0.1"
ROOT = Path(__file__).parents[2]


def test_a_line_a_file_and_standard_input(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = f"{LINE} --swap-space 4"
    answer = run("lint", "--line", wrong)
    assert (answer.code, answer.err) == (1, "")
    (said,) = answer.out.splitlines()
    assert said.startswith("error flag-removed · line 1: `--swap-space` is gone from vllm since 0.18. Fix: use --cpu")
    script = tmp_path / "serve.sh"
    script.write_text(f"#!/bin/sh\n{wrong}\n")
    assert run("lint", script).out == answer.out.replace("line 1", "line 2")
    monkeypatch.setattr(sys, "stdin", io.StringIO(wrong))
    assert run("lint", "-").out == answer.out
    record = msgspec.json.decode(run("lint", "--line", wrong, "--json").out, type=LintRecord)
    assert (record.launches, record.errors) == (1, 1)


def test_the_code_tells_errors_from_warnings(run: Run) -> None:
    sound = run("lint", "--line", LINE)
    assert (sound.code, sound.out, sound.err) == (0, "", "nothing found in 1 launch\n")
    warned = run("lint", "--line", f"{LINE} --quantization fp8", "--target", "a100-80-sxm")
    assert warned.code == 0
    assert warned.out.startswith("warning fp8-compute")


def test_a_plan_of_ours(run: Run, tiny: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert run("plan", tiny, "--target", "rtx4090", "--out", plan, "--quiet").code == 0
    assert run("lint", plan).code == 0
    plan.write_text(plan.read_text().replace('"--max-model-len"', '"--max-modle-len"'))
    assert "flag-unknown" in run("lint", plan).out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "give a file, or --line"),
        (("--line", "echo hello"), "no command that starts an engine"),
        (("--line", LINE, "--target", "h1000"), "unknown target"),
        (("--line", " "), "is empty"),
        (("missing.yaml",), "missing.yaml"),
    ],
)
def test_what_cannot_be_read(run: Run, words: tuple[str, ...], expected: str) -> None:
    check(run("lint", *words), 2, expected)


def test_the_reference_pages_are_fresh(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["make_engine_docs.py", "--check"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(ROOT / "scripts" / "make_engine_docs.py"), run_name="__main__")
    assert stopped.value.code == 0, capsys.readouterr().err
