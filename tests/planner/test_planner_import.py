"""Planning starts no numeric stack."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from checkpoints import write_checkpoint

PROGRAM = """
import sys, time
from pathlib import Path
from bitwright.facts.hardware import find_device
from bitwright.facts.model import model_facts
from bitwright.planner.build import make_plan
from bitwright.planner.explain import explain_lines
plan = make_plan(model_facts(Path(sys.argv[1])), find_device("auto"), use_case="chat")
assert explain_lines(plan)
heavy = {"torch", "transformers", "numpy", "numba", "scipy", "gguf", "safetensors", "tokenizers"} & set(sys.modules)
print(sorted(heavy), time.process_time())
"""


def test_planning_loads_no_numeric_stack_and_is_quick(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", layers=30)
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    results = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    assert [heavy for heavy, _ in results] == ["[]"] * 3
    assert min(float(seconds) for _, seconds in results) < 0.3  # of processor time: a busy machine does not count
