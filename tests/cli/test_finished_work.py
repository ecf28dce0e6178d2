"""What is finished is kept: a verdict outlives the measurement of speed and the note in the artifact."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bitwright import api
from bitwright.api.speed import FLOAT_FOLDER, SPEED_FILE, measure_speed
from bitwright.cli.ship import _advise
from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import EnvironmentFault
from bitwright.core.plan import Plan
from bitwright.core.protocols import Silent
from bitwright.core.records import QuantRecord, ShipRecord, SpeedPoint, SpeedRecord
from command_line import Run


class Talk(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.fixture
def mine(artifact: Path, tmp_path: Path) -> Path:
    """A copy of the artifact that may be changed."""
    return Path(shutil.copytree(artifact, tmp_path / "mine"))


def refuse(*_: object, **__: object) -> None:
    raise EnvironmentFault("the machine refuses")


def test_a_failed_measurement_of_speed_keeps_verdict_and_report(
    run: Run, tiny: Path, text: Path, judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitwright.engines.speed.measure", refuse)
    words = ["--type", "Q8_0", "--calibration", text, "--samples", "2", "--length", "32", "--no-serve"]
    words += ["--text", judged, "--windows", "4", "--window-length", "32"]
    answer = run("ship", tiny, "--out", tmp_path / "out", *words)
    assert answer.code in (0, 1, 4), answer.err
    assert answer.errors == []
    assert "<html" in (tmp_path / "out" / "report.html").read_text()
    assert not (tmp_path / "out" / SPEED_FILE).exists()
    assert not (tmp_path / "out" / FLOAT_FOLDER).exists()


@pytest.mark.parametrize("keep", [False, True])
def test_a_twin_that_a_kill_left_is_removed_by_the_next_call(keep: bool, mine: Path, tiny: Path) -> None:
    (gguf,) = mine.glob("*.gguf")
    point = SpeedPoint(
        name="Q8_0", bytes=gguf.stat().st_size, prompt_tokens_s=1.0, decode_tokens_s=1.0, prompt_tokens=8,
        decode_tokens=8, repeats=1,
    )  # fmt: skip
    provenance = read_document(QuantRecord, mine / "quant.json").provenance
    written = SpeedRecord(engine="llama.cpp", threads=1, points=(point,), provenance=provenance)
    write_document(written, mine / SPEED_FILE)
    (mine / FLOAT_FOLDER).mkdir()
    assert measure_speed(read_document(Plan, mine / "plan.json"), tiny, mine, keep_float=keep) == written
    assert (mine / FLOAT_FOLDER).exists() == keep


def test_a_verdict_that_cannot_be_left_in_the_artifact_is_returned(
    mine: Path, tiny: Path, judged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bitwright.formats.ggml.summary.embed_summary", refuse)
    talk = Talk()
    record = api.validate(mine, tiny, texts=[judged], windows=2, length=32, progress=talk)
    assert record.verdict in ("PASS", "FAIL", "INCONCLUSIVE")
    assert talk.lines == ["the verdict was not left in the artifact: the machine refuses"]


def test_a_file_that_quant_json_does_not_list_is_not_touched(mine: Path, tiny: Path, judged: Path) -> None:
    (ours,) = mine.glob("*.gguf")
    other = Path(shutil.copy(ours, mine / "other.gguf"))
    before = other.read_bytes()
    api.validate(other, tiny, texts=[judged], windows=2, length=32)
    assert other.read_bytes() == before


def test_the_next_type_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    record = ShipRecord(
        out="out", verdict="FAIL", format="compressed-tensors", type="W4A16 g128 sym", artifact=".", artifact_bytes=1,
        original_bytes=2, bits_per_weight=4.5, gates=(), notes=(), speed=(), report="report.html",
        try_next="W8A16 g128 sym",
    )  # fmt: skip
    _advise(record)
    assert "--type 'W8A16 g128 sym' with" in capsys.readouterr().err
