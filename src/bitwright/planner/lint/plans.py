"""A plan.json: its launch line against the engine of today, its types against the device, and what was decided.

The line is the first of two things that go stale: engines drop flags after a plan was written.
"""

from __future__ import annotations

from collections.abc import Iterator

from bitwright.core.findings import Finding
from bitwright.core.plan import DeviceFacts, Plan
from bitwright.core.ranking import Regime
from bitwright.core.schemes import FloatScheme, IntScheme
from bitwright.core.units import format_bytes
from bitwright.facts.lint_rules import finding
from bitwright.planner.engine_fit import engine_fits
from bitwright.planner.lint.launches import Launch, launch_of
from bitwright.planner.lint.world import Served
from bitwright.planner.memory import fits

WORDS = {"awq": "awq", "gptq": "gptq", "gptq_v2": "gptq", "bitsandbytes": "bitsandbytes", "gguf": "gguf", "fp8": "fp8"}


def plan_launches(plan: Plan) -> list[Launch]:
    """The plan's line; `bitwright serve` is ours, and there is nothing to say of it."""
    return [*launch_of(plan.launch, {}, "launch")]


def plan_regime(plan: Plan) -> Regime | None:
    """What bounds decoding in the first of the ways that the plan ranks."""
    options = plan.ranking.options if plan.ranking is not None else ()
    return options[0].speed.decode if options and options[0].speed is not None else None


def plan_device(plan: Plan) -> DeviceFacts:
    return plan.target.device if plan.target is not None else plan.device


def plan_served(plan: Plan) -> Served:
    """The model as the plan describes it."""
    integers = [entry.scheme for entry in plan.tensors if isinstance(entry.scheme, IntScheme)]
    kind = WORDS.get(plan.format, "")
    if not kind and integers:
        kind = f"w{integers[0].bits}a{8 if integers[0].activations is not None else 16}"
    elif not kind:
        kind = next((word for word in ("nvfp4", "mxfp4", "fp8") if word in plan.type.lower()), "")
    return Served(
        name=plan.model.path,
        kind=kind,
        bits=plan.bits_per_weight,
        facts=plan.model,
        tensors=plan.tensors,
        format=plan.format,
        act_order=plan.act_order == "group",
        compressed=plan.format == "compressed-tensors",
    )


def check_plan(plan: Plan) -> Iterator[Finding]:
    """What was decided."""
    memory = plan.memory
    if not fits(memory):
        left = memory.available - memory.weights - memory.overhead
        if left <= 0:
            yield finding(
                "no-memory", "memory", weights=format_bytes(memory.weights), overhead=format_bytes(memory.overhead),
                available=format_bytes(memory.available),
            )  # fmt: skip
        else:
            yield finding(
                "no-memory-for-kv", "memory", left=format_bytes(left), context=memory.context,
                cache=format_bytes(memory.kv_cache),
            )  # fmt: skip
    if any(_per_tensor(entry.scheme) for entry in plan.tensors):
        yield finding("per-tensor-activations", "tensors")
    if plan.method in ("gptq", "awq", "smoothquant") and not plan.calibration.source and not plan.calibration.imatrix:
        yield finding("no-calibration", "calibration", method=plan.method)
    yield from _loading(plan)


def _per_tensor(scheme: object) -> bool:
    inputs = scheme.activations if isinstance(scheme, IntScheme) else None
    return inputs is not None and inputs.scaling == "tensor"


def _loading(plan: Plan) -> Iterator[Finding]:
    if all(isinstance(entry.scheme, FloatScheme) for entry in plan.tensors):
        return
    engine = plan.engine.replace("-", "").replace(".", "")
    for fit in engine_fits(plan):
        if fit.here and fit.how == "fails" and fit.engine.lower().replace(".", "").startswith(engine):
            yield finding(
                "not-loaded", "engine", engine=fit.engine, scheme=fit.scheme, device=plan.device.name,
                because=fit.because, fix="plan again for this device, or take another --type",
            )  # fmt: skip
