"""The verdict that an artifact carries, and whether it still is that of its weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bitwright import api
from bitwright.core.plan import CalibrationPlan
from bitwright.formats.ggml.summary import open_gguf
from command_line import Run


@pytest.fixture(scope="session", params=["artifact", "packed"])
def verdict_inside(
    request: pytest.FixtureRequest, tiny: Path, judged: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A judged artifact, one of each kind."""
    place = tmp_path_factory.mktemp("judged") / "artifact"
    shutil.copytree(request.getfixturevalue(request.param), place)
    api.validate(place, tiny, texts=[judged], windows=4, length=32)
    return place


@pytest.fixture
def place(verdict_inside: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(verdict_inside, tmp_path / "artifact"))


def weights(place: Path) -> Path:
    return next(path for path in place.iterdir() if path.suffix in (".gguf", ".safetensors"))


def flip(path: Path, at: int) -> None:
    held = bytearray(path.read_bytes())
    held[at] ^= 1
    path.write_bytes(held)


def test_a_verdict_of_the_same_bytes(run: Run, place: Path) -> None:
    answer = run("inspect", place)
    assert answer.code == 0, answer.err
    assert "on judged.txt" in answer.out
    assert answer.out.count("unchanged since it was judged on 20") == 2
    carried = json.loads(run("inspect", place, "--json").out)["carried"]
    assert (carried["weights"], carried["settings"]) == ("unchanged", "unchanged")


def test_one_bit_of_the_weights_is_seen(run: Run, place: Path) -> None:
    flip(weights(place), -1)
    answer = run("inspect", place)
    assert answer.code == 1
    assert "weights       CHANGED" in answer.out
    assert "settings      unchanged" in answer.out
    assert "judge this artifact again" in answer.out


def test_headers_alone_are_not_compared_with_weights(run: Run, place: Path) -> None:
    flip(weights(place), -1)
    answer = run("inspect", place, "--headers")
    assert (answer.code, "not compared" in answer.out) == (0, True)


def test_other_settings_are_seen(run: Run, place: Path) -> None:
    if weights(place).suffix == ".gguf":
        reader = open_gguf(weights(place))
        field = reader.fields["llama.rope.freq_base"]
        flip(weights(place), int(field.offset) + sum(int(part.nbytes) for part in field.parts[:-1]))
    else:
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    answer = run("inspect", place)
    assert answer.code == 1
    assert "settings      CHANGED" in answer.out
    assert "weights       unchanged" in answer.out


def test_an_artifact_that_was_not_judged_says_so(run: Run, packed: Path, tiny: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "q8"  # other tests judge the artifact that all share
    api.quantize(api.plan(tiny, type="Q8_0", calibration=CalibrationPlan(source=())), fresh)
    for made in (packed, fresh):
        answer = run("inspect", made)
        assert (answer.code, "was not judged" in answer.out) == (0, True), answer.out
    assert "a checkpoint is what artifacts are judged against" in run("inspect", tiny).out


def test_a_verdict_that_cannot_be_read_says_so(run: Run, packed: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(packed, tmp_path / "old"))
    card = (place / "README.md").read_text()
    (place / "README.md").write_text(card.replace("Not validated yet: run `bitwright validate`.", "**PASS** says I"))
    assert "cannot be read" in run("inspect", place).out
