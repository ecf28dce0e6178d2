"""Every rule of the handbooks acts: without it, some row would be answered otherwise. And the page is of the rows."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import msgspec
import pytest

from bitwright.core.plan import ModelFacts
from bitwright.core.target import Target
from bitwright.facts.decision_rules import decision_rules
from bitwright.facts.hardware import find_device
from bitwright.planner import rules
from bitwright.planner.rules import FLOAT, guidance
from bitwright.planner.wish import target_of
from handbook import Row, facts_of, rows, wish_of

ROOT = Path(__file__).parents[2]
MORE = [  # settings that no row of decisions asks for
    Row(at="a draft", model="llama-3.1-70b", target="h100-sxm:2", said={"concurrency": 1, "aim": "latency"}),
    Row(at="latency", model="llama-3.1-8b", target="h100-sxm", said={"ttft": 0.04, "workload": "batch"}),
    Row(at="Blackwell", model="llama-3.1-8b", target="b200-sxm"),
    Row(at="Instinct", model="llama-3.1-8b", target="mi300x"),
]


def situations() -> list[tuple[ModelFacts, Target]]:
    found = []
    for row in (*rows(), *MORE):
        facts, device = facts_of(row.model), find_device(row.target)
        goal = target_of(wish_of(row), device, use_case=row.use_case, context=row.context)  # type: ignore[arg-type]
        found.append((facts, goal))
    tuned = msgspec.structs.replace(facts_of("llama-3.1-8b"), adapter="adapter")
    return [*found, (tuned, found[0][1])]


SITUATIONS = situations()


def outcome(facts: ModelFacts, goal: Target) -> object:
    """What rules ask for; nothing where they choose no format."""
    try:
        found = guidance(facts, goal)
    except StopIteration:
        return None
    behind = {
        kind for kind in ("W8A8", "W8A16", "W4A16", "NVFP4", "NF4", FLOAT) if found.place(kind) > len(found.order)
    }
    return found.format, found.order, found.adds, behind


@pytest.mark.parametrize("name", [rule.id for rule in decision_rules()])
def test_a_rule_acts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    others = tuple(rule for rule in decision_rules() if rule.id != name)
    with_all = (outcome(*situation) for situation in SITUATIONS)
    for situation, before in zip(SITUATIONS, with_all, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(rules, "decision_rules", lambda: others)
            after = outcome(*situation)
        if after != before:
            return
    pytest.fail(f"no row would be answered otherwise without `{name}`")


def test_the_page_is_what_the_rows_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_handbook_docs.py", "--check"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "scripts" / "make_handbook_docs.py"), run_name="__main__")
    assert caught.value.code == 0
