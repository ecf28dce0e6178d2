"""The page of a plan, and the dots of its ways."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_html import open_in_browser

from bitwright import api
from bitwright.api.decision import explain
from bitwright.core.plan import Plan
from bitwright.planner.wish import Wish
from bitwright.report import pareto
from bitwright.report.labels import box, place_labels
from bitwright.report.plan_page import render_plan
from command_line import run_main

places = st.tuples(st.floats(80, 940), st.floats(20, 250))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return api.plan("llama-3.1-8b", target="rtx4090:2", wish=Wish(engine=("vllm", "sglang"), user_speed=45.0))


@settings(max_examples=40)
@given(st.lists(places, min_size=1, max_size=12))
def test_names_lie_on_the_sheet_and_over_no_other_name(marks: list[tuple[float, float]]) -> None:
    texts = place_labels(["W4A16 g128 sym"] * len(marks), marks, right=944, bottom=254)
    covered = []
    for text in texts:
        found = ElementTree.fromstring(text)
        covered.append(
            box(str(found.text), float(found.get("x", 0)), float(found.get("y", 0)), found.get("text-anchor", ""))
        )
    assert texts or len(marks) > 1
    for index, (left, top, right, bottom) in enumerate(covered):
        assert left >= -0.1
        assert top >= -0.1
        assert right <= 944.1
        assert bottom <= 254.1
        for other in covered[:index]:
            assert (
                left >= other[2] - 0.2 or right <= other[0] + 0.2 or top >= other[3] - 0.2 or bottom <= other[1] + 0.2
            )


def test_the_front_holds_what_no_other_beats(plan: Plan) -> None:
    assert plan.ranking is not None
    option = plan.ranking.options[0]
    cheap, good, worse, both = (pareto.Dot(x, y, option) for x, y in ((1.0, 0.3), (3.0, 0.0), (2.0, 0.4), (2.0, 0.1)))
    assert pareto.front([cheap, good, worse, both]) == [cheap, good, both]


def test_every_type_is_a_dot_and_the_plans_own_is_large(plan: Plan) -> None:
    assert plan.ranking is not None
    types = {option.type for option in plan.ranking.options}
    for svg in (pareto.price_chart(plan), pareto.time_chart(plan)):
        marks = list(ElementTree.fromstring(str(svg).partition("<p class")[0]).iter("path"))
        tips = {mark.findtext("title", ""): mark.get("transform", "") for mark in marks}
        assert {_kind(tip) for tip in tips} == types
        assert [_kind(tip) for tip, place in tips.items() if "scale(8)" in place] == [plan.type]


def _kind(tip: str) -> str:
    return tip.partition(":")[0].partition(" in ")[0].partition(",")[0]


def test_no_two_dots_have_one_name(plan: Plan) -> None:
    ranked = api.plan("llama-3.1-70b", target="rtx4090:4", wish=Wish(engine=("vllm", "sglang"), kv_cache="auto"))
    for one in (plan, ranked):
        for svg in (pareto.price_chart(one), pareto.time_chart(one)):
            names = [title.partition(":")[0] for title in re.findall(r"<title>([^<]*)</title>", str(svg))]
            assert names
            assert len(set(names)) == len(names)


def test_ways_of_one_type_are_named_by_what_differs(plan: Plan) -> None:
    assert plan.ranking is not None
    first = plan.ranking.options[0]
    replace = msgspec.structs.replace
    one = replace(first, type="FP8_DYNAMIC", engine="vllm", kv_cache="16-bit", tensor_parallel=1, replicas=1)
    assert pareto.told_apart([one, replace(one, type="BF16")]) == ["FP8_DYNAMIC", "BF16"]
    assert pareto.told_apart([one, replace(one, kv_cache="fp8")]) == ["FP8_DYNAMIC", "FP8_DYNAMIC, fp8 cache"]
    assert pareto.told_apart([one, replace(one, engine="sglang"), replace(one, kv_cache="fp8")]) == [
        "FP8_DYNAMIC in vLLM", "FP8_DYNAMIC in SGLang", "FP8_DYNAMIC in vLLM, fp8 cache",
    ]  # fmt: skip
    assert pareto.told_apart([one, replace(one, replicas=2)]) == ["FP8_DYNAMIC", "FP8_DYNAMIC, 2 devices as 2 replicas"]


def test_without_prices_memory_takes_their_place() -> None:
    plan = api.plan("llama-3.1-8b", target="cpu-avx2", wish=Wish())
    assert "memory of all devices" in pareto.price_chart(plan)
    assert pareto.price_chart(api.plan("llama-3.1-8b", target="cpu-avx2")) == ""  # nothing was ranked


def test_the_page_tells_all_and_asks_for_nothing(plan: Plan) -> None:
    told = explain(plan)
    page = render_plan(plan, told)
    text = " ".join(re.sub(r"<[^>]*>", " ", page).split())
    for words in (told.answer, *(value for _, value in told.summary), *told.warnings):
        assert " ".join(words.split()) in text.replace("&#39;", "'")
    for row in (*told.reasons, *told.refused):
        assert all(cell in text.replace("&#39;", "'") for cell in row)
    assert told.refused
    assert "--tensor-parallel-size" not in plan.launch or "--tensor-parallel-size" in text
    assert "<script" not in page
    assert re.findall(r"(?:src|href)=\"(?!data:)", page) == []


def test_names_are_escaped(plan: Plan) -> None:
    model = msgspec.structs.replace(plan.model, path="<script>alert(1)</script>")
    named = msgspec.structs.replace(plan, model=model)
    assert "<script" not in render_plan(named, explain(named))


def test_the_command_writes_the_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "plan.html"
    answer = run_main(capsys, "plan", "llama-3.1-8b", "--target", "rtx4090", "--html", page)
    assert answer.code == 0
    assert answer.out.startswith("Serve llama-3.1-8b as ")
    assert "Quality against cost" in page.read_text()


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_opens_it_without_an_error_or_a_request(tmp_path: Path, plan: Plan) -> None:
    text, console, requests = open_in_browser(tmp_path, render_plan(plan, explain(plan)))
    assert "The ways to serve it" in text
    assert (console, requests) == ([], [])
