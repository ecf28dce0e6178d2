"""Twenty kills over three methods, and the same bytes as a run that nobody disturbed.

What lies on disk changes only by writes, syncs, renames and removals, so moments are counted in these and not in
seconds: each run is killed at a random one of them, in the middle of a write if it is one. Every second kill comes from
outside, somewhat later than its moment, and so anywhere between two. Runs start from a server that has the libraries
loaded.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

import pytest

from bitwright.core.documents import read_document, write_document
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.facts.model import model_facts
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint
from command_line import text_file

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
CHANGES = ("pwrite", "fsync", "replace", "unlink")  # of `os`
METHODS: dict[str, tuple[int, dict[str, Any]]] = {  # kills, choices
    "GPTQ, GGUF, weighed tokens": (8, {"type": "Q4_K_M", "effort": "best"}),
    "AWQ, compressed-tensors": (6, {"format": "compressed-tensors", "method": "awq", "bits": 4, "group_size": 64}),
    "FP8": (6, {"type": "FP8_DYNAMIC", "method": "rtn"}),
}
NEVER = 1 << 30
RECORDS = ("quant.json", "plan.json")  # hold seconds and paths


@dataclasses.dataclass
class Starts:
    """Working processes on one plan."""

    plan: Path
    context: Any

    def run(self, out: Path, at: int, *, outside: bool, delay: float = 0.0) -> tuple[int, int]:
        """Work until the change number `at`. Returns the exit code (0: finished before) and the changes made."""
        count = self.context.Value("q", 0)
        process = self.context.Process(target=work, args=(self.plan, out, count, NEVER if outside else at))
        process.start()
        while outside and process.exitcode is None:
            if count.value >= at:
                time.sleep(delay)
                os.kill(process.pid, signal.SIGKILL)
                break
            time.sleep(0.001)
        process.join()
        return process.exitcode, count.value


def work(plan: Path, out: Path, count: Synchronized[int], fatal: int) -> None:
    """In the working process: count changes, and end by SIGKILL at number `fatal`, half of a write done."""
    for name in CHANGES:
        setattr(os, name, _counted(getattr(os, name), name, count, fatal))
    from bitwright.pipeline.run import quantize

    made = read_document(Plan, plan)
    quantize(made, Path(made.model.path), out)


def _counted(real: Callable[..., Any], name: str, count: Synchronized[int], fatal: int) -> Callable[..., Any]:
    def counted(*args: Any, **named: Any) -> Any:
        count.value += 1
        if count.value == fatal:
            if name == "pwrite":
                handle, data, offset = args
                real(handle, data[: len(data) // 2], offset)
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **named)

    return counted


def stage(out: Path) -> str:
    """How far a killed run had come."""
    from bitwright.core.errors import InputError
    from bitwright.pipeline.job import JobState

    if (out / "quant.json").exists():
        return "tidying"
    if not (out / ".work" / "job.json").exists():
        return "begin"
    try:
        done = [unit.name for unit in read_document(JobState, out / ".work" / "job.json").done]
    except InputError:
        return "unreadable"
    if not done:
        folder = out / ".prepared" / "gradients"
        taken = folder.exists() and not (folder / "block-0000.npz").exists()
        return "preparation" if taken else "embedding"
    return "publishing" if done[-1] == "head" else "blocks"


def artifact(out: Path) -> dict[str, bytes]:
    """All files that are not records of the run."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in RECORDS
    }


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_kills_at_random_moments_leave_the_same_bytes(method: str, tmp_path: Path) -> None:
    kills, choices = METHODS[method]
    folder = write_checkpoint(tmp_path / "model", hidden=256, heads=4, kv_heads=2, intermediate=256, layers=3)
    calibration = CalibrationPlan(source=(str(text_file(tmp_path / "text.txt")),), samples=4, length=32)
    plan = make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=calibration, **choices)
    write_document(plan, tmp_path / "plan.json")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["bitwright.pipeline.run"])
    starts = Starts(tmp_path / "plan.json", context)
    code, changes = starts.run(tmp_path / "whole", NEVER, outside=False)
    assert code == 0
    expected = artifact(tmp_path / "whole")
    generator, attempt, seen, killed = random.Random(method), 0, [], 0
    while killed < kills:
        out = tmp_path / f"out-{attempt}"
        outside, at = killed % 2 == 1, generator.randint(1, 2 * changes // 3)
        code, _ = starts.run(out, at, outside=outside, delay=generator.random() * 0.03)
        if code == -signal.SIGKILL:
            killed += 1
            seen.append(stage(out))
            continue
        assert code == 0
        assert artifact(out) == expected
        attempt += 1
    assert starts.run(out, NEVER, outside=False)[0] == 0
    assert artifact(out) == expected
    assert len(set(seen)) > 1, seen  # early and late, not twenty times the same moment
