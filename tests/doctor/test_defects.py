"""Planted defects: the gate passes none, the diagnosis names the tensor or setting; sound artifacts are left in peace.

`BITWRIGHT_DEFECTS=FILE` writes what docs/reference/doctor.md shows.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bitwright import api
from bitwright.api.texts import Supply
from bitwright.calibration.corpora import TokenWindows, make_windows
from bitwright.core.errors import BitwrightError
from doctor.artifacts import LENGTH, SOUND, WINDOWS, Shelf
from doctor.defects import DEFECTS, Defect

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # libraries' remarks

LOOKED_AT = 4  # windows of `doctor`, whose findings rest on weights and settings
LEAST_NAMED = len(DEFECTS) * 9 // 10
COLUMNS = ("defect", "artifact", "gate", "named", "rule", "where")
RECORD = "BITWRIGHT_DEFECTS"


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    """Artifacts, and text that each model wrote once."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    written: dict[str, list[TokenWindows]] = {}
    first = Supply.first

    def once(supply: Supply, windows: int) -> list[TokenWindows]:
        if supply.folder.name not in written:
            written[supply.folder.name] = first(supply, WINDOWS)
        return [make_windows(text.name, text.tokens[:windows]) for text in written[supply.folder.name]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Supply, "first", once)
        yield Shelf(tmp_path_factory.mktemp("shelf"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_artifact_is_neither_failed_nor_accused(shelf: Shelf, name: str) -> None:
    variant, _, use_case = SOUND[name]
    place, reference = shelf.file(name), shelf.reference(variant)
    record = shelf.judged(place, reference, use_case)
    assert record.verdict != "FAIL", record.notes
    found = api.doctor(place, reference, windows=LOOKED_AT, length=LENGTH)
    assert found.healthy
    assert not found.findings


def test_no_defect_passes_and_nine_in_ten_are_named(shelf: Shelf, tmp_path: Path) -> None:
    rows = [_row(shelf, defect, tmp_path / "planted") for defect in DEFECTS]
    for row in rows:
        sys.stdout.write(" | ".join(str(row[key]) for key in COLUMNS) + "\n")
    if RECORD in os.environ:
        record = {"sound": len(SOUND), "defects": rows}
        Path(os.environ[RECORD]).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    assert not [row for row in rows if row["passed"]]
    assert sum(row["named"] for row in rows) >= LEAST_NAMED


def _row(shelf: Shelf, defect: Defect, place: Path) -> dict[str, Any]:
    """What the gates and the first finding say of one defect."""
    shutil.rmtree(place, ignore_errors=True)
    planted = shelf.copy(defect.base, place)
    defect.edit(planted)
    variant, _, use_case = SOUND[defect.base]
    reference = shelf.reference(variant)
    try:
        record = shelf.judged(planted, reference, use_case)
        failed = dict.fromkeys(gate.measure for gate in record.gates if gate.verdict == "FAIL")
        passed, gate = record.verdict == "PASS", ", ".join(failed) or record.verdict
    except BitwrightError as error:
        passed, gate = False, f"refused ({error.code})"
    findings = api.doctor(planted, reference, windows=LOOKED_AT, length=LENGTH).findings
    rule, where = (findings[0].rule, findings[0].where) if findings else ("nothing", "")
    return {
        "defect": defect.name, "artifact": defect.base, "gate": gate, "passed": passed,
        "named": where == defect.where and rule in defect.rules, "rule": rule, "where": where, "seen": defect.seen,
    }  # fmt: skip
