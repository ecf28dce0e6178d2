"""Two artifacts on the same windows, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright import api
from bitwright.api.comparison import names_of
from bitwright.core.comparison import ComparisonRecord
from bitwright.core.documents import read_document
from bitwright.core.errors import UsageError
from bitwright.core.plan import CalibrationPlan
from command_line import Run, check


@pytest.fixture(scope="session")
def small(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Q4_0 artifact of `tiny`."""
    out = tmp_path_factory.mktemp("artifacts") / "q4"
    calibration = CalibrationPlan(source=(str(text),), samples=2, length=32)
    api.quantize(api.plan(tiny, type="Q4_0", calibration=calibration), out)
    return out


def test_the_closer_comes_first_and_the_order_is_written(
    run: Run, tiny: Path, artifact: Path, small: Path, judged: Path, tmp_path: Path
) -> None:
    words = ("compare", small, artifact, "--reference", tiny, "--text", judged, "--windows", "8", "--length", "32")
    answer = run(*words, "--out", tmp_path, "--json")
    assert answer.code in (0, 1, 4), answer.err
    found = read_document(ComparisonRecord, tmp_path / "comparison.json")
    assert answer.out == (tmp_path / "comparison.json").read_text()
    assert [entry.format for entry in found.entries] == ["gguf Q8_0", "gguf Q4_0"]
    assert [entry.group for entry in found.entries] == [1, 2]
    assert found.pairs[0].told_apart
    assert found.entries[1].behind is None
    assert all(entry.memory_bytes for entry in found.entries)
    page = (tmp_path / "comparison.html").read_text()
    assert found.advice in page
    assert len(list(tmp_path.glob("*.validation.json"))) == 2
    assert json.loads(answer.out)["texts"][0]["name"] == "judged.txt"


def test_the_table_is_read_at_eighty_columns(
    run: Run, tiny: Path, artifact: Path, small: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    words = ("compare", small, artifact, "--reference", tiny, "--text", judged, "--windows", "4", "--length", "32")
    answer = run(*words, "--quiet")
    assert max(map(len, answer.out.splitlines())) <= 80
    assert "is closest to the original" in answer.out
    assert "Q8_0" in answer.out


def test_one_artifact_is_no_comparison(run: Run, tiny: Path, artifact: Path) -> None:
    check(run("compare", artifact, "--reference", tiny), 2, "at least two")
    check(run("compare", artifact, artifact, "--reference", tiny), 2, "given twice")


def test_names_are_as_short_as_they_can_be() -> None:
    assert names_of([Path("/a/q4/model.gguf"), Path("/a/q8/model.gguf")]) == ["q4/model.gguf", "q8/model.gguf"]
    assert names_of([Path("/a/q4"), Path("/b/w8")]) == ["q4", "w8"]
    with pytest.raises(UsageError, match="at least two"):
        names_of([Path("/a/q4")])
