"""Rows of the handbooks as cases: what a row says, what we answer, and the correction where they differ on purpose."""

from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any

import msgspec

from bitwright.core.documents import Record
from bitwright.core.plan import ModelFacts, Plan
from bitwright.core.ranking import Option
from bitwright.facts.catalogue import catalogue, catalogue_facts
from bitwright.facts.corrections import corrections
from bitwright.facts.hardware import find_device
from bitwright.planner.build import make_plan
from bitwright.planner.lint.plans import check_plan
from bitwright.planner.rules import kind_of
from bitwright.planner.wish import Wish

ROWS = Path(__file__).parent / "planner" / "handbook_rows.toml"


class Row(Record, frozen=True, kw_only=True):
    """One row; the head of the file says what each field means."""

    at: str
    model: str
    target: str
    types: tuple[str, ...] = ()
    engines: tuple[str, ...] = ()
    devices: int = 0
    use_case: str = "chat"
    context: int = 4096
    said: dict[str, Any] = msgspec.field(default_factory=dict)
    correction: str = ""
    ours: str = ""

    def __str__(self) -> str:
        return self.at


def rows() -> tuple[Row, ...]:
    """All rows of decisions."""
    return msgspec.convert(tomllib.loads(ROWS.read_text(encoding="utf-8"))["row"], tuple[Row, ...])


@functools.cache
def facts_of(name: str) -> ModelFacts:
    """Of the catalogue."""
    return catalogue_facts(catalogue()[name])


def wish_of(row: Row) -> Wish:
    """What a person says of a row's load."""
    return Wish(**{name: tuple(value) if isinstance(value, list) else value for name, value in row.said.items()})


def plan_of(row: Row) -> Plan:
    """The plan for a row."""
    facts, device = facts_of(row.model), find_device(row.target)
    return make_plan(facts, device, use_case=row.use_case, context=row.context, wish=wish_of(row))


def chosen(plan: Plan) -> Option:
    """The way that the plan is for."""
    assert plan.ranking is not None
    return next(option for option in plan.ranking.options if (option.type, option.engine) == (plan.type, plan.engine))


def check(row: Row) -> None:
    """That we answer as the row does; under a correction that we do not, and what we say instead."""
    plan = plan_of(row)
    assert [found.rule for found in check_plan(plan)] == [], row.at
    kind = kind_of(plan.type)
    same = kind in row.types and (not row.engines or plan.engine in row.engines)
    if row.devices:
        same = same and chosen(plan).devices == row.devices
    answer = f"{kind} in {plan.engine}"
    if not row.correction:
        assert same, f"{row.at}: {answer}"
        return
    corrected(row.correction, same=same)
    assert kind == row.ours, f"{row.at}: {answer}, and the correction says {row.ours}"


def corrected(name: str, *, same: bool) -> None:
    """That a correction is known, and needed: what we answer is not what the handbook says."""
    assert name in corrections(), name
    assert not same, f"our answer is the handbook's: the correction `{name}` is not needed"
