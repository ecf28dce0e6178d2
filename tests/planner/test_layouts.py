"""Layouts over devices: heads shared out evenly, stages for the rest; experts ranked as one tensor."""

from __future__ import annotations

import pytest

from bitwright.core.plan import ModelFacts
from bitwright.facts.catalogue import catalogue, catalogue_facts
from bitwright.facts.hardware import find_device
from bitwright.facts.stacks import is_stacked, stacked
from bitwright.planner import build
from bitwright.planner.build import make_plan
from bitwright.planner.decide import Candidate
from bitwright.planner.layouts import layouts
from bitwright.planner.wish import Wish
from model_shapes import shaped_facts

LLAMA_70B = catalogue_facts(catalogue()["llama-3.1-70b"])  # 64 heads, 8 of keys and values
QWEN_HALF = catalogue_facts(catalogue()["qwen2.5-0.5b"])  # 14 heads, 2 of keys and values, 24 blocks


@pytest.mark.parametrize(
    ("facts", "device", "engine", "expected"),
    [
        (LLAMA_70B, "h100-sxm", "vllm", [(1, 1)]),
        (LLAMA_70B, "h100-sxm:8", "vllm", [(1, 1), (2, 1), (4, 1), (8, 1)]),
        (LLAMA_70B, "h100-sxm:16", "vllm", [(1, 1), (2, 1), (4, 1), (8, 1), (8, 2)]),
        (LLAMA_70B, "rtx3090:3", "vllm", [(1, 1), (2, 1), (1, 3)]),
        (LLAMA_70B, "rtx3090:6", "vllm", [(1, 1), (2, 1), (4, 1), (2, 3)]),
        (QWEN_HALF, "rtx3090:4", "vllm", [(1, 1), (2, 1), (2, 2)]),
        (QWEN_HALF, "rtx3090:7", "vllm", [(1, 1), (2, 1), (2, 2), (1, 7)]),
        (LLAMA_70B, "rtx3090:4", "llama.cpp", [(1, 1), (1, 4)]),
    ],
)
def test_layouts(facts: ModelFacts, device: str, engine: str, expected: list[tuple[int, int]]) -> None:
    assert layouts(facts, find_device(device), engine) == expected


def test_no_more_stages_than_blocks() -> None:
    few = shaped_facts(layers=2, heads=3, kv_heads=3, hidden=192)
    assert layouts(few, find_device("rtx3090:5"), "vllm") == [(1, 1), (1, 2)]


def test_ways_of_a_mixture_are_ranked_with_stacked_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint's experts are thousands of tensors: each type is sized on stacks, the chosen one in full."""
    facts = shaped_facts("mixtral", experts=8, hidden=256, intermediate=512)
    whole, sized = build._sizes, list[tuple[bool, str]]()

    def sizes(model: ModelFacts, overrides: object, parts: object, candidate: Candidate) -> object:
        sized.append((is_stacked(model), candidate.label))
        return whole(model, overrides, parts, candidate)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "_sizes", sizes)
    plan = make_plan(facts, find_device("rtx4090"), use_case="chat", wish=Wish(concurrency=4))
    assert [label for stack, label in sized if not stack] == [plan.type]
    assert len([label for stack, label in sized if stack]) > 4
    assert not is_stacked(plan.model)
    same = make_plan(stacked(facts), find_device("rtx4090"), use_case="chat", wish=Wish(concurrency=4))
    assert plan.ranking is not None
    assert same.ranking is not None
    assert [option.memory for option in plan.ranking.options] == [option.memory for option in same.ranking.options]
