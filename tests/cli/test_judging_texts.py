from pathlib import Path

import msgspec
import pytest
import torch

from bitwright import api
from bitwright.api.proof import START_NOTE, _text_notes
from bitwright.api.texts import SELF, NamedText, Supply, files_among, named_texts
from bitwright.calibration.corpora import make_windows
from bitwright.core.errors import InputError, UsageError
from bitwright.core.plan import CalibrationPlan
from bitwright.core.records import ValidationRecord
from command_line import Run


def test_names_files_and_self(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    odd = tmp_path / "b=c.txt"
    odd.write_text("b")
    found = named_texts([f"de={tmp_path / 'a.txt'}", odd, SELF])
    assert [(text.name, text.path) for text in found] == [("de", tmp_path / "a.txt"), ("", odd), ("", None)]
    assert files_among([odd, SELF]) == [odd]
    assert [text.path for text in named_texts([])] == [None]


def test_what_cannot_be_told_apart_or_found_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UsageError, match="two validation texts are called `de`"):
        named_texts([f"de={tmp_path / 'a.txt'}", f"de={tmp_path / 'a.txt'}"])
    with pytest.raises(InputError, match=r"absent\.txt` does not exist"):
        named_texts(["de=absent.txt"])


def test_a_record_says_where_windows_come_from_the_start_of_a_longer_text() -> None:
    def noted(seed: int, found: int, path: Path | None = Path("a.txt")) -> list[str]:
        supply = Supply(texts=(NamedText(path),), folder=Path(), original=None, length=8, seed=seed)  # type: ignore[arg-type]
        return _text_notes(supply, [make_windows("a", torch.zeros(found, 8, dtype=torch.int64))], 4, own_text=True)

    assert noted(seed=0, found=4) == [START_NOTE]
    assert noted(seed=1, found=4) == noted(seed=0, found=3) == noted(seed=0, found=4, path=None) == []


def test_an_artifact_of_no_text_is_judged_on_a_text_however_short(
    run: Run, tiny: Path, judged: Path, tmp_path: Path
) -> None:
    made = api.plan(tiny, type="Q8_0", method="rtn", calibration=CalibrationPlan(source=()))
    api.quantize(made, tmp_path / "rtn")
    short = tmp_path / "short.txt"
    short.write_text(judged.read_text()[:400])
    answer = run(
        "validate", tmp_path / "rtn", "--reference", tiny, "--text", short, "--windows", "2", "--length", "32", "--json"
    )
    assert msgspec.json.decode(answer.out, type=ValidationRecord).texts[0].windows == 2
