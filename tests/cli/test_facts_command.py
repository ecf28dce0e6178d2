"""`bitwright facts`: tables for people, documents for programs, the nearest name for a misspelt one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from bitwright.core.choices import Method
from bitwright.facts.catalogue import catalogue
from bitwright.facts.device_rows import hardware_rows
from bitwright.facts.engine_kernels import kernels
from bitwright.facts.sheets import EngineSheet, HardwareSheet, MethodSheet, ModelSheet, Sheet, WorkloadSheet, sheet
from command_line import run_main

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[2]
SHEETS: dict[str, type[Sheet]] = {
    "hardware": HardwareSheet, "engines": EngineSheet, "models": ModelSheet, "methods": MethodSheet,
    "workloads": WorkloadSheet,
}  # fmt: skip


@pytest.mark.parametrize("topic", SHEETS)
def test_a_document_reads_back(capsys: Capture, topic: str) -> None:
    answer = run_main(capsys, "facts", topic, "--json")
    assert (answer.code, answer.err) == (0, "")
    found = json.loads(answer.out)
    assert found["schema"] == f"bitwright.facts.{topic}/1"
    assert msgspec.json.decode(answer.out, type=SHEETS[topic]) == sheet(topic)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("hardware",), [*hardware_rows()]),
        (("hardware", "h100"), ["h100-sxm", "h100-pcie", "h100-nvl"]),
        (("hardware", "h200"), ["INT8 1979", "4800 GB/s", "3.45-6.30 $/h", "NVIDIA H200 datasheet"]),
        (("models",), [*catalogue()]),
        (("models", "qwen3-30b-a3b"), ["30,532,122,624", "moe_intermediate_size", "Qwen/Qwen3-30B-A3B"]),
        (("engines",), ["vllm", "sglang", "llama.cpp", "transformers", "/metrics"]),
        (("engines", "vllm"), [row.kernel for row in kernels() if row.engine.startswith("vLLM")]),
        (("engines", "vLLM"), ["--tensor-parallel-size", "--swap-space", "vllm:kv_cache_usage_perc"]),
        (("methods",), [*get_args(Method), "FP8_DYNAMIC", "Q4_K_M"]),
        (("methods", "awq"), ["arXiv:2306.00978"]),
        (("workloads",), ["chat", "rag", "4096"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_tables_hold_every_row(capsys: Capture, words: tuple[str, ...], told: list[str]) -> None:
    answer = run_main(capsys, "facts", *words)
    assert (answer.code, answer.err) == (0, "")
    assert [word for word in told if word not in answer.out] == []


def test_names_narrow_a_table(capsys: Capture) -> None:
    answer = run_main(capsys, "facts", "engines", "vllm", "--json")
    assert [row["engine"] for row in json.loads(answer.out)["engines"]] == ["vllm"]
    answer = run_main(capsys, "facts", "models", "Mistral-Nemo", "--json")
    assert [row["id"] for row in json.loads(answer.out)["models"]] == ["mistral-nemo-12b"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("hardwar",), "did you mean `hardware`? known: hardware, engines"),
        (("hardware", "rtx4900"), "did you mean `rtx4090`? `bitwright facts hardware` lists all"),
        (("models", "lama-3.1-8b"), "did you mean `llama-3.1-8b`?"),
        (("methods", "gtpq"), "did you mean `gptq`?"),
        (("workloads", "zzz"), "`bitwright facts workloads` lists all"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(capsys: Capture, words: tuple[str, ...], hint: str) -> None:
    answer = run_main(capsys, "facts", *words)
    assert (answer.code, answer.out) == (2, "")
    assert hint in answer.err


def test_methods_are_those_of_the_plan_and_have_pages() -> None:
    found = sheet("methods")
    assert isinstance(found, MethodSheet)
    assert sorted(row.name for row in found.methods) == sorted(get_args(Method))
    assert all((ROOT / row.page).is_file() for row in found.methods)
