"""A run goes on only with the text that it began with: content counts, not only the name of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright import api
from bitwright.api.making import calibration_plan, check_text
from bitwright.core.errors import InputError, MismatchError, UsageError
from command_line import Run, text_file

WORDS = ("--type", "Q8_0", "--samples", "2", "--length", "32", "--quiet")


def test_a_run_with_changed_text_is_refused(run: Run, tiny: Path, tmp_path: Path) -> None:
    text = text_file(tmp_path / "text.txt")
    words = ("quantize", tiny, "--out", tmp_path / "out", "--calibration", text, *WORDS)
    assert run(*words).code == 0
    text_file(text, step=6007)
    answer = run(*words)
    assert answer.code == 2
    assert "content of calibration" in answer.errors[0]


def test_a_plan_whose_text_has_changed_since_is_refused(tiny: Path, tmp_path: Path) -> None:
    text = text_file(tmp_path / "text.txt")
    plan = api.plan(tiny, type="Q8_0", calibration=calibration_plan([str(text)], 2, 32, 0))
    text_file(text, step=6007)
    with pytest.raises(MismatchError, match="has changed since the plan was made"):
        api.quantize(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_files_have_a_hash(tmp_path: Path) -> None:
    text = text_file(tmp_path / "text.txt")
    assert calibration_plan((), 2, 32, 0).content_sha256 == ()
    mixed = calibration_plan(["hub:owner/name/file.txt", str(text)], 2, 32, 0)
    assert mixed.content_sha256[0] == ""
    assert len(mixed.content_sha256[1]) == 64
    check_text(mixed)


def test_an_importance_matrix_stands_alone(tmp_path: Path) -> None:
    text = text_file(tmp_path / "text.txt")
    with pytest.raises(UsageError, match="cannot be given together"):
        calibration_plan([str(text)], 2, 32, 0, imatrix=text)
    with pytest.raises(InputError, match="importance matrix"):
        calibration_plan((), 2, 32, 0, imatrix=tmp_path / "none.gguf")
