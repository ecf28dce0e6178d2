"""Will the engines load what comes out, and on which kernel: devices that fare alike are put together.

Architectures other than NVIDIA's are told where the plan is for one; `bitwright facts engines` has all.

Not here: the rows (facts/engine_kernels.toml), the order of preference (decide.py).
"""

from __future__ import annotations

import itertools

from bitwright.core.plan import ArtifactFormat, DeviceFacts, Plan, TensorPlan
from bitwright.core.preflight import EngineFit
from bitwright.core.schemes import FloatScheme, GgmlScheme, QuantScheme
from bitwright.facts.engine_kernels import Capability, Kernel, engines_of, find_kernel, platform_of
from bitwright.planner.capability import place_of
from bitwright.planner.engine_names import ROWS, VLLM

UNWANTED = {
    "fails": "does not run", "unknown": "may not run", "emulates": "emulates", "expands": "expands",
}  # fmt: skip
# Turing, Ampere of data centres and of desks, Ada, Hopper, Blackwell of data centres and of desks
CAPABILITIES: tuple[Capability, ...] = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))


def engine_fits(plan: Plan) -> tuple[EngineFit, ...]:
    """One row per engine, scheme and range of devices. GGUF types share kernels and are told as one."""
    groups = _by_scheme(plan)
    return tuple(
        fit
        for engine in engines_of(plan.format)
        for scheme, entries in groups.items()
        for fit in _fits(engine, plan, scheme, entries)
    )


def kernel_notes(format: ArtifactFormat, label: str, scheme: QuantScheme, device: DeviceFacts) -> list[str]:
    """What vLLM makes of a type on AMD's and Intel's devices, where that is not what the type is for."""
    place = place_of(device)
    if not isinstance(place, str) or platform_of(ROWS[VLLM], place) is None:
        return []
    row = find_kernel(ROWS[VLLM], format, scheme, place)
    if row.how not in UNWANTED:
        return []
    return [f"vLLM on {device.name} {UNWANTED[row.how]} {label}" + (f": {row.because}" if row.because else "")]


def is_quantized(entry: TensorPlan) -> bool:
    """Whether the plan rounds the tensor to codes."""
    return not isinstance(entry.scheme, FloatScheme) and not (
        isinstance(entry.scheme, GgmlScheme) and entry.scheme.is_float
    )


def _by_scheme(plan: Plan) -> dict[QuantScheme, list[TensorPlan]]:
    found: dict[QuantScheme, list[TensorPlan]] = {}
    for entry in plan.tensors:
        if isinstance(entry.scheme, FloatScheme) or not is_quantized(entry):
            continue
        first = next(iter(found), entry.scheme)
        found.setdefault(first if plan.format == "gguf" else entry.scheme, []).append(entry)
    return found


def _fits(engine: str, plan: Plan, scheme: QuantScheme, entries: list[TensorPlan]) -> list[EngineFit]:
    shapes = tuple({(entry.shape[-2], entry.shape[-1]) for entry in entries})
    here = place_of(plan.device)
    known = sorted({*CAPABILITIES, *([here] if isinstance(here, tuple) else [])})
    rows = [(capability, find_kernel(engine, plan.format, scheme, capability, shapes)) for capability in known]
    fits = []
    for row, run in itertools.groupby(rows, key=lambda pair: pair[1]):
        span = [capability for capability, _ in run]
        fits.append(_fit(engine, plan, scheme, row, _range(span, known[-1]), here in span))
    if isinstance(here, str):
        other = find_kernel(engine, plan.format, scheme, here, shapes)
        fits.append(_fit(engine, plan, scheme, other, here or plan.device.name, True))
    processor = find_kernel(engine, plan.format, scheme, None, shapes)
    return [*fits, _fit(engine, plan, scheme, processor, "CPU", here is None)]


def _fit(engine: str, plan: Plan, scheme: QuantScheme, row: Kernel, devices: str, here: bool) -> EngineFit:
    return EngineFit(
        engine=engine,
        scheme=plan.type if plan.format == "gguf" else scheme.label,
        devices=devices,
        here=here,
        kernel=row.kernel,
        how=row.how,
        because=row.because,
        source=row.source,
    )


def _range(span: list[Capability], newest: Capability) -> str:
    first, last = (f"{major}.{minor}" for major, minor in (span[0], span[-1]))
    if span[-1] == newest:
        return f"{first} and later"
    return first if first == last else f"{first} to {last}"
