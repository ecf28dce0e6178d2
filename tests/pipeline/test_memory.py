"""Peak memory does not grow with the number of blocks, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from checkpoints import write_checkpoint
from command_line import text_file

FEW, MANY = 4, 16
GROWTH = 8 << 20  # bytes; twelve blocks take 32 MiB as they are stored, 16 as codes of a byte, 9 packed in 4 bits
# A peak is read from the kernel: what getrusage tells of a child counts the process that started it too
PROGRAM = """
import re, sys
from pathlib import Path
from bitwright.cli.app import main
code = main(sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""
# Arrays go back to the system when they are freed, so that the peak is what was held and not what an allocator kept
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
NO_TEXT = ("--calibration", "none")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same model at few and at many blocks of 1.4 million weights."""
    place = tmp_path_factory.mktemp("models")
    return {
        layers: write_checkpoint(place / str(layers), hidden=256, intermediate=1536, layers=layers, shards=2)
        for layers in (FEW, MANY)
    }


def peak(model: Path, out: Path, *flags: str) -> int:
    command = [sys.executable, "-c", PROGRAM, "quantize", str(model), "--out", str(out), "--quiet", *flags]
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return int(done.stderr.split()[-1]) << 10


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are read from /proc")
@pytest.mark.parametrize(
    "flags",
    [
        ("--format", "compressed-tensors", "--bits", "4", *NO_TEXT),
        ("--type", "Q4_K_M", *NO_TEXT),
        ("--format", "compressed-tensors", "--bits", "4", "--method", "gptq", "--calibration"),
    ],
    ids=["rtn", "Q4_K_M", "gptq"],
)
def test_peak_memory_does_not_grow_with_depth(models: dict[int, Path], tmp_path: Path, flags: tuple[str, ...]) -> None:
    if flags[-1] == "--calibration":
        text = text_file(tmp_path / "text.txt")
        flags = (*flags, str(text), "--samples", "4", "--length", "128")
    few, many = (peak(model, tmp_path / str(layers), *flags) for layers, model in models.items())
    assert many - few < GROWTH
