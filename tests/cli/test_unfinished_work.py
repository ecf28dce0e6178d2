"""A run goes on only as the run that was begun: every other request for its folder is refused, and mixes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from checkpoints import write_checkpoint
from command_line import Run, check, text_file

SHAPE = {"hidden": 64, "intermediate": 128, "layers": 2, "context": 256}


@pytest.fixture
def begun(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """A command whose run has finished the embedding and one block."""
    model = write_checkpoint(tmp_path / "model", **SHAPE)
    words = ["quantize", model, "--out", tmp_path / "out", "--calibration", text_file(tmp_path / "text.txt"), "--quiet"]
    words += ["--samples", "2", "--length", "32", "--type", "Q4_0"]
    from bitwright.pipeline import run as pipeline

    quantize_block, calls = pipeline.quantize_block, []

    def stop_at_second(*given: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return quantize_block(*given)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "quantize_block", stop_at_second)
        assert run(*words).code == 130
    assert (tmp_path / "out" / ".work" / "job.json").exists()
    return words


def held(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


REQUESTS: dict[str, tuple[list[str], str]] = {
    "another type": (["--type", "Q8_0"], "type was Q4_0"),
    "another method": (["--method", "rtn"], "method was gptq"),
    "another effort": (["--effort", "fast"], "effort was balanced"),
    "another format": (["--type", "FP8_DYNAMIC"], "format was gguf"),
    "other windows": (["--seed", "1"], "calibration was"),
    "more windows": (["--samples", "3"], "calibration was"),
    "one tensor by hand": (["--type", "*.down_proj=Q8_0"], "overrides was"),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_another_request(kind: str, run: Run, begun: list[object], tmp_path: Path) -> None:
    before = held(tmp_path / "out")
    flags, said = REQUESTS[kind]
    words = begun[:-2] if kind in ("another type", "another format") else begun
    check(run(*words, *flags), 2, "begun with another plan", said)
    assert held(tmp_path / "out") == before


def test_another_text_under_the_same_name(run: Run, begun: list[object], tmp_path: Path) -> None:
    text_file(tmp_path / "text.txt", step=6007)
    before = held(tmp_path / "out")
    check(run(*begun), 2, "content of calibration")
    assert held(tmp_path / "out") == before


def test_another_tune_under_the_same_name(run: Run, begun: list[object], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "model")
    write_checkpoint(tmp_path / "model", seed=1, **SHAPE)
    before = held(tmp_path / "out")
    check(run(*begun), 2, "begun with another plan", "the model was")
    assert held(tmp_path / "out") == before


def test_another_version(run: Run, begun: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitwright.pipeline.job.version", lambda: "0.0.0")
    before = held(tmp_path / "out")
    check(run(*begun), 2, "version of bitwright", "remove")
    assert held(tmp_path / "out") == before


def test_a_plan_that_was_changed_behind_its_run(run: Run, begun: list[object], tmp_path: Path) -> None:
    plan = tmp_path / "out" / "plan.json"
    plan.write_text(plan.read_text().replace('"effort": "balanced"', '"effort": "best"'))
    check(run(*begun), 2, "another plan")
    check(
        run("quantize", tmp_path / "model", "--out", tmp_path / "out", "--plan", plan, "--quiet"), 2, "unfinished run"
    )


@pytest.mark.parametrize("damaged", ["plan.json", ".work/job.json"])
def test_records_that_cannot_be_read(damaged: str, run: Run, begun: list[object], tmp_path: Path) -> None:
    path = tmp_path / "out" / damaged
    path.write_bytes(path.read_bytes()[:-20])
    check(run(*begun), 2, path.name)


def test_the_same_request_goes_on(run: Run, begun: list[object], tmp_path: Path) -> None:
    assert run(*begun).code == 0
    assert not (tmp_path / "out" / ".work").exists()
