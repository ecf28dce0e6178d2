"""The same mistakes in every long command: one `error:`, one `hint:`, the exit code, nothing under a final name.

`quantize` has its own file (test_bad_input.py).
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_bad_input import DAMAGED, Damage

from command_line import Run, check, check_nothing_made

QUICK = ["--calibration", "{text}", "--samples", "2", "--length", "32"]
MODELS: dict[str, list[str]] = {  # what takes a model
    "quantize": ["quantize", "{model}", "--out", "{out}", "--type", "Q4_K_M", *QUICK],
    "imatrix": ["imatrix", "{model}", "--out", "{out}/x.gguf", *QUICK],
    "ship": ["ship", "{model}", "--out", "{out}", "--type", "Q8_0", "--text", "{judged}", *QUICK, "--no-serve"],
    "validate": ["validate", "{artifact}", "--reference", "{model}", "--text", "{judged}", "--windows", "4"],
    "doctor": ["doctor", "{artifact}", "--reference", "{model}", "--text", "{judged}", "--windows", "2"],
    "compare": ["compare", "{artifact}", "{twin}", "--reference", "{model}", "--text", "{judged}", "--windows", "2"],
}
ARTIFACTS: dict[str, list[str]] = {  # what takes an artifact
    "validate": ["validate", "{model}", "--reference", "{tiny}", "--text", "{judged}", "--windows", "4"],
    "convert": ["convert", "{model}", "--format", "compressed-tensors", "--out", "{out}"],
    "serve": ["serve", "{model}", "--port", "0"],
    "inspect": ["inspect", "{model}"],
    "compare": ["compare", "{model}", "{artifact}", "--reference", "{tiny}", "--text", "{judged}", "--windows", "2"],
}


def poison_a_block(folder: Path) -> None:
    """A NaN in a tensor that every command reads; `imatrix` does not read a head."""
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-2] + b"\xc0\x7f")


MODEL_DAMAGES: dict[str, tuple[Damage, str]] = {
    name: DAMAGED[name] for name in ("missing folder", "empty folder", "truncated shard", "unknown architecture")
} | {"NaN in a weight": (poison_a_block, "NaN or infinite")}


@pytest.fixture
def places(tiny: Path, text: Path, judged: Path, artifact: Path, tmp_path: Path) -> dict[str, Path]:
    return {
        "tiny": tiny, "text": text, "judged": judged, "artifact": artifact, "model": tmp_path / "model",
        "out": tmp_path / "out", "twin": Path(shutil.copytree(artifact, tmp_path / "twin")),
    }  # fmt: skip


def filled(words: list[str], places: dict[str, Path]) -> list[str]:
    return [word.format(**places) for word in words]


@pytest.mark.parametrize("kind", MODEL_DAMAGES)
@pytest.mark.parametrize("command", MODELS)
def test_damaged_models(command: str, kind: str, run: Run, places: dict[str, Path]) -> None:
    damage, word = MODEL_DAMAGES[kind]
    shutil.copytree(places["tiny"], places["model"])
    damage(places["model"])
    check(run(*filled(MODELS[command], places)), 2, word)
    check_nothing_made(places["out"])


@pytest.mark.parametrize("command", ["quantize", "imatrix", "ship"])
def test_a_nan_is_named_with_its_place(command: str, run: Run, places: dict[str, Path]) -> None:
    shutil.copytree(places["tiny"], places["model"])
    poison_a_block(places["model"])
    said = run(*filled(MODELS[command], places)).err
    assert re.search(r"`model\.layers\.\d\.[\w.]+weight` in .* the first at \[\d+(, \d+)?\]", said), said


def damaged_artifact(kind: str, places: dict[str, Path]) -> Path:
    """A path that is no sound artifact."""
    whole, place = next(places["artifact"].glob("*.gguf")), places["model"]
    match kind:
        case "missing":
            return place
        case "cut short":
            place = place.with_suffix(".gguf")
            place.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        case "empty":
            place = place.with_suffix(".gguf")
            place.write_bytes(b"")
        case "empty folder":
            place.mkdir()
    return place


@pytest.mark.parametrize("kind", ["missing", "cut short", "empty", "empty folder"])
@pytest.mark.parametrize("command", ARTIFACTS)
def test_damaged_artifacts(command: str, kind: str, run: Run, places: dict[str, Path]) -> None:
    places = places | {"model": damaged_artifact(kind, places)}
    check(run(*filled(ARTIFACTS[command], places)), 2, places["model"].name)
    check_nothing_made(places["out"])


OTHERS: dict[str, tuple[list[str], str]] = {
    "convert to what is no format": (["convert", "{artifact}", "--format", "onnx", "--out", "{out}"], "known: "),
    "convert a checkpoint": (["convert", "{tiny}", "--format", "gguf", "--out", "{out}"], "{tiny}"),
    "convert what does not carry over": (["convert", "{artifact}", "--format", "awq", "--out", "{out}"], "exactly"),
    "convert onto something": (["convert", "{artifact}", "--format", "gptq", "--out", "{tiny}"], "is there already"),
    "imatrix from no text": (["imatrix", "{tiny}", "--out", "{out}", "--calibration", "none.txt"], "none.txt"),
    "imatrix from nothing": (["imatrix", "{tiny}", "--out", "{out}", "--calibration", "none"], "from text"),
    "imatrix of an artifact": (["imatrix", "{artifact}", "--out", "{out}/x.gguf", *QUICK], "artifact"),
    "quantize by no matrix": (["quantize", "{tiny}", "--out", "{out}", "--type", "Q8_0", "--imatrix", "n"], "`n`"),
    "quantize by what is none": (
        ["quantize", "{tiny}", "--out", "{out}", "--type", "Q8_0", "--imatrix", "{text}"], "text.txt",
    ),
    "quantize with no adapter": (["quantize", "{tiny}", "--out", "{out}", "--type", "Q8_0", "--lora", "n"], "`n`"),
    "ship without text": (["ship", "{tiny}", "--out", "{out}", "--text", "none.txt", *QUICK], "none.txt"),
    "ship of one window": (["ship", "{tiny}", "--out", "{out}", "--windows", "1", *QUICK], "--windows"),
    "ship for no use": (["ship", "{tiny}", "--out", "{out}", "--use-case", "poetry", *QUICK], "summarization"),
    "ship on no device": (["ship", "{tiny}", "--out", "{out}", "--target", "h1000", *QUICK], "h100"),
    "validate for no use": (["validate", "{artifact}", "--reference", "{tiny}", "--use-case", "poetry"], "code"),
    "validate by one window": (["validate", "{artifact}", "--reference", "{tiny}", "--windows", "1"], "--windows"),
    "validate without original": (["validate", "{artifact}"], "--reference"),
    "validate against itself": (["validate", "{artifact}", "--reference", "{artifact}"], "itself"),
    "doctor against itself": (["doctor", "{artifact}", "--reference", "{artifact}"], "itself"),
    "doctor of the original": (["doctor", "{tiny}", "--reference", "{tiny}"], "float checkpoint"),
    "doctor of no artifact": (["doctor", "{text}", "--reference", "{tiny}"], "text.txt"),
    "doctor of nothing": (["doctor", "{out}", "--reference", "{tiny}"], "does not exist"),
    "doctor without original": (["doctor", "{artifact}"], "--reference"),
    "doctor on no text": (["doctor", "{artifact}", "--reference", "{tiny}", "--text", "none.txt"], "none.txt"),
    "serve what is none": (["serve", "{text}", "--port", "0"], "text.txt"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_other_mistakes(kind: str, run: Run, places: dict[str, Path]) -> None:
    words, word = OTHERS[kind]
    check(run(*filled(words, places)), 2, word.format(**places))
    check_nothing_made(places["out"])


@pytest.mark.parametrize("command", ["imatrix", "convert"])
def test_a_disk_that_fills_up(command: str, run: Run, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    words = MODELS[command] if command == "imatrix" else ARTIFACTS[command]
    places = places | {"model": places["tiny"] if command == "imatrix" else places["artifact"]}
    monkeypatch.setattr(os, "fsync", full)
    check(run(*filled(words, places), "--quiet"), 3, "no space left")
    check_nothing_made(places["out"])


def limited() -> None:
    """In the child: no file may grow beyond 50 kB, and trying raises instead of killing."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["quantize", "ship"])
def test_a_limit_of_the_system_on_file_sizes(command: str, places: dict[str, Path]) -> None:
    places = places | {"model": places["tiny"]}
    words = [sys.executable, "-m", "bitwright", *filled(MODELS[command], places), "--quiet"]
    ended = subprocess.run(words, capture_output=True, text=True, preexec_fn=limited)
    assert ended.returncode == 3, ended.stderr
    error, hint = ended.stderr.strip().splitlines()
    assert error.startswith("error: ")
    assert "larger than" in error
    assert hint.startswith("hint: ")
    check_nothing_made(places["out"])
