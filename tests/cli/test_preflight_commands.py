"""Before a long step: what `--dry-run` shows, what a run says first, and what is refused before anything is written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bitwright.core.preflight import Preflight
from checkpoints import write_hollow
from command_line import Run, check, check_nothing_made

LLAMA_8B = {"hidden": 4096, "layers": 32, "heads": 32, "kv_heads": 8, "intermediate": 14336, "vocab": 128256}
PROGRAM = """
import sys, time
from bitwright.cli.app import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "numpy", "numba", "scipy", "gguf", "safetensors"} & set(sys.modules)
print(code, sorted(heavy), time.process_time(), file=sys.stderr)
"""


@pytest.fixture
def commands(tiny: Path, text: Path, tmp_path: Path) -> dict[str, list[object]]:
    """Every command that looks ahead, without its flags for that."""
    quick = ["--calibration", text, "--samples", "2", "--length", "32"]
    return {
        "quantize": ["quantize", tiny, "--out", tmp_path / "out", "--type", "Q4_K_M", *quick],
        "imatrix": ["imatrix", tiny, "--out", tmp_path / "out" / "x.gguf", *quick],
    }


@pytest.mark.parametrize("step", ["quantize", "imatrix"])
def test_a_dry_run_shows_and_writes_nothing(step: str, commands: dict[str, list[object]], run: Run) -> None:
    answer = run(*commands[step], "--dry-run")
    assert answer.code == 0, answer.err
    for word in ("time", "working memory", "disk", "free at"):
        assert word in answer.out
    document = run(*commands[step], "--dry-run", "--json")
    assert (document.code, document.err) == (0, "")
    assert msgspec.json.decode(document.out, type=Preflight).step == step
    assert not Path(str(commands[step][3])).exists()


def test_a_run_says_first_what_it_will_take(commands: dict[str, list[object]], run: Run) -> None:
    first = run(*commands["quantize"])
    assert first.code == 0
    assert first.err.index("time") < first.err.index("disk")
    assert "llama.cpp" in first.err
    assert "do not fill" not in first.out
    assert run(*commands["quantize"]).err == ""  # finished: nothing is ahead
    assert run(*commands["imatrix"], "--quiet").err == ""


def test_a_dry_run_of_a_model_of_8_billion_weights_takes_no_second(tmp_path: Path) -> None:
    model = write_hollow(tmp_path / "8b", **LLAMA_8B)
    words = ["quantize", str(model), "--out", str(tmp_path / "out"), "--type", "Q4_K_M", "--dry-run"]
    command = [sys.executable, "-c", PROGRAM, *words]
    ended = [subprocess.run(command, capture_output=True, text=True, check=True).stderr.split() for _ in range(3)]
    assert {(code, heavy) for code, heavy, _ in ended} == {("0", "[]")}
    assert min(float(seconds) for _, _, seconds in ended) < 1  # of processor time: a busy machine does not count


@pytest.mark.parametrize("step", ["quantize", "imatrix"])
def test_a_disk_without_room_is_found_before_anything_is_written(
    step: str, commands: dict[str, list[object]], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**6, 10**6 - 1000, 1000))
    out = Path(str(commands[step][3]))
    check(run(*commands[step], "--quiet"), 3, "no space left", "needs", "1000 B are free")
    check_nothing_made(out)
    assert not out.exists()
    assert run(*commands[step], "--dry-run").code == 0  # it shows what is missing
