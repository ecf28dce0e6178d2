"""Run bitwright as its users do, through its command line, and find what it wrote."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from process import Measured, run

# Numba and the BLAS behind torch each read a variable of their own.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# An installed package lies there compiled; from a source tree its bytecode is written by the first run.
INSTALLED = {"PYTHONDONTWRITEBYTECODE": ""}


@dataclass(frozen=True)
class Run:
    """An artifact of bitwright: the GGUF file or the folder, what it cost, and the calibration tokens it saw."""

    artifact: Path
    cost: dict[str, float | int] | None
    calibration_sha256: str


def quantize(
    model: Path,
    out: Path,
    flags: Sequence[str],
    *,
    calibration: Path,
    samples: int,
    length: int,
    threads: int,
    fresh: bool,
) -> Run:
    """`bitwright quantize` with the first windows of the text (seed 0); a finished run is reused unless `fresh`."""
    cost_file = out.with_name(out.name + ".cost.json")
    if fresh and out.exists():
        shutil.rmtree(out)
    if not (out / "quant.json").exists():
        command = [
            *(sys.executable, "-m", "bitwright", "quantize", str(model), "--out", str(out), *flags),
            *("--calibration", str(calibration), "--samples", str(samples), "--length", str(length), "--seed", "0"),
        ]
        resumed = out.exists()
        limits = {**INSTALLED, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
        measured: Measured = run(command, log=out.with_name(out.name + ".log"), environment=limits)
        if not resumed:
            cost_file.write_text(json.dumps(measured.document()) + "\n", encoding="utf-8")
    record = json.loads((out / "quant.json").read_text(encoding="utf-8"))
    cost = json.loads(cost_file.read_text()) if cost_file.exists() else None
    return Run(_artifact(out), cost, record["calibration_sha256"])


def quantize_plain(
    model: Path, out: Path, kind: str, imatrix: Path, threads: int
) -> tuple[Path, dict[str, float | int]]:
    """The file that the weighted search alone makes from an importance matrix, and what the whole process cost."""
    if out.exists():
        shutil.rmtree(out)
    command = [
        *(sys.executable, "-m", "bitwright", "quantize", str(model), "--out", str(out), "--format", "gguf"),
        *("--type", kind, "--method", "rtn", "--imatrix", str(imatrix), "--quiet"),
    ]
    limits = {**INSTALLED, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    measured = run(command, log=out.with_name(out.name + ".log"), environment=limits)
    return _artifact(out), measured.document()


def _artifact(out: Path) -> Path:
    """The one GGUF file of a folder, or the folder itself when it holds safetensors."""
    found = sorted(out.glob("*.gguf"))
    if len(found) == 1:
        return found[0]
    if not found and list(out.glob("*.safetensors")):
        return out
    raise SystemExit(f"{out} should hold one GGUF file or safetensors; it holds {sorted(os.listdir(out))}")


def digest(windows: list[list[int]]) -> str:
    """The identity that `quant.json` gives to calibration tokens, computed here from the ids that the peers saw."""
    tokens = np.asarray(windows, dtype="<i8")
    return hashlib.sha256(repr(tokens.shape).encode() + tokens.tobytes()).hexdigest()
