"""The page of fields and the JSON schemas are those of the code."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_record_docs.py"


def test_the_pages_are_fresh(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_record_docs.py", "--check"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert stopped.value.code == 0, capsys.readouterr().err


def test_a_number_without_a_unit_is_refused() -> None:
    script = runpy.run_path(str(SCRIPT))
    field = script["Field"]("height", "float | None", "", "")
    with pytest.raises(SystemExit, match=r"Tower\.height is a number without a unit"):
        script["_section"](script["Struct"]("Tower", "", (field,)))
    assert script["_unit"]("TextResult.kl_mean") == "nats per token"
