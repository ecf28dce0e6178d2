"""Load and limits on the command line and in a file reach the plan, under the same names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from command_line import check, run_main

Capture = pytest.CaptureFixture[str]
FLAGS = {
    "workload": "rag", "prompt-tokens": 2000, "output-tokens": 100, "shared-prefix": 500, "concurrency": 6,
    "arrivals": 2.5, "ttft": 3.0, "user-speed": 5.0, "throughput": 20.0, "floor": 0.5, "aim": "cost", "engine": "vllm",
    "served-cache": "fp8", "price": 2.0,
}  # fmt: skip


def target_of(capsys: Capture, *words: object) -> dict[str, object]:
    answer = run_main(capsys, "plan", "llama-3.1-8b", "--target", "h100-sxm", "--json", *words)
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)["target"]
    assert isinstance(found, dict)
    return found


def test_a_file_says_what_flags_say(capsys: Capture, tmp_path: Path) -> None:
    flags = [word for name, value in FLAGS.items() for word in (f"--{name}", str(value))]
    wish = tmp_path / "wish.yaml"
    wish.write_text(json.dumps(FLAGS | {"engine": ["vllm"]}))  # every JSON is YAML
    said = target_of(capsys, *flags)
    assert said == target_of(capsys, "--wish", wish)
    assert said != target_of(capsys, "--wish", wish, "--concurrency", "7")
    for told in ("rag", "2000", "100", "500", "6", "2.5", "3.0", "5.0", "20.0", "0.5", "cost", "vllm", "fp8", "2.0"):
        assert told in json.dumps(said)


def test_a_file_that_is_not_there(capsys: Capture, tmp_path: Path) -> None:
    check(run_main(capsys, "plan", "llama-3.1-8b", "--wish", tmp_path / "absent.yaml"), 2, "absent.yaml")
