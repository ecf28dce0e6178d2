"""Command lines in this process, and the models that they work on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from bitwright import api
from bitwright.core.plan import CalibrationPlan
from checkpoints import write_checkpoint
from command_line import Run, run_main, text_file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run("plan", model)` gives exit code, stdout and stderr."""
    return partial(run_main, capsys)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound checkpoint in two shards."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return write_checkpoint(folder, hidden=64, intermediate=128, layers=2, context=256, shards=2)


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_file(tmp_path_factory.mktemp("texts") / "text.txt")


@pytest.fixture(scope="session")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text that `artifact` was not calibrated on."""
    return text_file(tmp_path_factory.mktemp("texts") / "judged.txt", step=6007)


@pytest.fixture(scope="session")
def artifact(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a Q8_0 artifact of `tiny`."""
    out = tmp_path_factory.mktemp("artifacts") / "q8"
    calibration = CalibrationPlan(source=(str(text),), samples=2, length=32)
    api.quantize(api.plan(tiny, type="Q8_0", calibration=calibration), out)
    return out


@pytest.fixture(scope="session")
def packed(tiny: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compressed-tensors folder of `tiny`."""
    out = tmp_path_factory.mktemp("artifacts") / "w8"
    calibration = CalibrationPlan(source=(str(text),), samples=2, length=32)
    api.quantize(api.plan(tiny, format="compressed-tensors", type="FP8_DYNAMIC", calibration=calibration), out)
    return out
