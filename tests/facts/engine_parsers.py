"""Asking engines' own parsers, through scripts/record_engine_options.py in the Python that has the engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cells.loaders import other_python

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "record_engine_options.py"


WHEELS = "BITWRIGHT_ENGINE_WHEELS"  # a folder of unpacked wheels, instead of .engine-wheels
UNPACKED = ("sglang", "lmdeploy")


def python_of(engine: str) -> Path | None:
    """The Python that has the engine, if there is one: llama.cpp is ours, as is what builds the parser of an unpacked
    wheel; vLLM lives where the loaders do."""
    if engine in UNPACKED:
        return Path(sys.executable) if wheel_of(engine).is_dir() else None
    return Path(sys.executable) if engine == "llama.cpp" else other_python()


def wheel_of(engine: str) -> Path:
    """Where the wheel of an engine lies unpacked, if it does."""
    return Path(os.environ.get(WHEELS) or ROOT / ".engine-wheels") / engine


def ask(engine: str, *flags: str, lines: Sequence[Sequence[str]] | None = None) -> Any:
    """What the script answers."""
    python = python_of(engine)
    assert python is not None
    if engine in UNPACKED:
        flags = ("--unpacked", str(wheel_of(engine)), *flags)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLAMA_ARG"))}
    ran = subprocess.run(
        [str(python), "-W", "ignore", str(SCRIPT), engine.replace(".", "_"), *flags],
        input=None if lines is None else json.dumps([list(line) for line in lines]),
        capture_output=True, text=True, timeout=600, check=False, env=environment,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout)
