"""A plan in words holds every decision, every tensor and every warning."""

from __future__ import annotations

from bitwright.core.plan import DeviceFacts
from bitwright.core.units import GIB
from bitwright.planner.build import make_plan
from bitwright.planner.explain import explain, explain_lines
from model_shapes import shaped_facts

CPU = DeviceFacts(name="a processor", kind="cpu", memory_bytes=GIB)


def test_nothing_of_the_plan_is_left_unsaid() -> None:
    plan = make_plan(shaped_facts(hidden=192, tied=True), CPU, use_case="chat")
    told = explain(plan)
    assert sum(count for _, count, _, _ in told.types) == len(plan.tensors)
    assert sum(parameters for _, _, parameters, _ in told.types) == plan.model.parameters
    assert sum(size for _, _, _, size in told.types) == sum(tensor.bytes for tensor in plan.tensors)
    assert [size for *_, size in told.types] == sorted((size for *_, size in told.types), reverse=True)
    assert len(told.reasons) == len(plan.reasons)
    text = "\n".join(explain_lines(plan))
    for reason in plan.reasons:
        assert reason.because in text
        assert reason.source in text
    for warning in plan.warnings:
        assert f"warning: {warning}" in text
    assert "Q4_K_M" in text
    assert "\x1b" not in text
    assert all("\n" not in line for line in explain_lines(plan))
