"""Run a command, and measure it: wall seconds, processor seconds and peak memory of the process and its children."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """What a command cost. `peak_memory_bytes` is the largest resident size of one process (Linux counts KiB)."""

    seconds: float
    processor_seconds: float
    peak_memory_bytes: int

    def document(self) -> dict[str, float | int]:
        return asdict(self)


def run(
    command: Sequence[str | Path],
    *,
    log: Path,
    environment: Mapping[str, str] | None = None,
    allowed: Sequence[int] = (0,),
) -> Measured:
    """Run to the end; both output streams go to `log`. Stops the script when the exit code is none of `allowed`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    words = [str(word) for word in command]
    start = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            words, stdout=stream, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode not in allowed:
        tail = log.read_text(errors="replace")[-2000:]
        raise SystemExit(f"{words[0]} ended with {process.returncode}; the end of {log}:\n{tail}")
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
