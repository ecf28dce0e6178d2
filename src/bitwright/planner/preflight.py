"""The look ahead: a plan and a place on a disk become what the long step will take, and who will run its result.

    disk      the artifact grows under its full size in the work folder and is renamed; beside it lie the hidden states
              behind the last block, twice while one takes the other's place, and with effort best those of every block
    memory    working_memory.py
What an interrupted run has reserved already counts as there.

Not here: seconds (duration.py), kernels (engine_fit.py), the refusal itself (api/preflight.py).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from bitwright.core.device_request import CPU, read_device
from bitwright.core.intervals import Interval
from bitwright.core.plan import CalibrationPlan, ModelFacts, Plan, TensorPlan
from bitwright.core.preflight import DeviceNeed, DiskNeed, Kept, MemoryNeed, Preflight, Ragged, Share, Step, TimeNeed
from bitwright.core.units import MIB, format_bytes
from bitwright.facts.hardware import this_cpu, this_gpu
from bitwright.planner.duration import (
    SELF,
    Judging,
    converting_time,
    measuring_time,
    needs_text,
    quantizing_time,
    weighs_tokens,
)
from bitwright.planner.engine_fit import engine_fits, is_quantized
from bitwright.planner.working_memory import converting_memory, device_memory, passing_memory, working_memory

HIDDEN_BYTES, STORED_HIDDEN_BYTES = 4, 2  # float32 behind a block, bfloat16 at every boundary
SMALL_FILES = 4 * MIB  # tokens, records, the report
RAGGED = "do not fill blocks"


def quantize_preflight(
    plan: Plan, out: Path, *, made: bool = False, judging: Judging | None = None, device: str = CPU
) -> Preflight:
    """Of `quantize`; with `judging`, of `ship`. `made` says that the artifact is in `out` already, `device` where
    blocks will run."""
    parts = {"tokens and records": float(SMALL_FILES)} | ({} if made else _quantize_files(plan))
    if judging is not None and judging.measured:
        parts["F16 twin for the measurement of speed"] = 2.0 * plan.model.parameters
    return _assembled(
        plan,
        "quantize" if judging is None else "ship",
        quantizing_time(plan, judging=judging),
        disk_need(out, parts),
        memory_need(*working_memory(plan)),
        device_need(plan, device),
    )


def _quantize_files(plan: Plan) -> dict[str, float]:
    """Bytes of the artifact, and of what lies beside it while it grows."""
    parts = {"artifact": float(plan.file_bytes)}
    tokens = plan.calibration.samples * plan.calibration.length if needs_text(plan) else 0
    hidden = tokens * plan.model.hidden
    if hidden:
        parts["hidden states"] = 2.0 * HIDDEN_BYTES * hidden
    if hidden and weighs_tokens(plan):
        boundaries = STORED_HIDDEN_BYTES * (plan.model.layers + 1) + 2 * HIDDEN_BYTES
        parts["hidden states of all blocks"] = float(boundaries * hidden)
    return parts


def convert_preflight(plan: Plan, out: Path) -> Preflight:
    """Of `convert`, whose plan comes from the integers that carry over."""
    parts = {"artifact": float(plan.file_bytes), "tokens and records": float(SMALL_FILES)}
    time = converting_time(plan.tensors)
    return _assembled(plan, "convert", time, disk_need(out, parts), memory_need(*converting_memory(plan)))


def imatrix_preflight(facts: ModelFacts, calibration: CalibrationPlan, out: Path) -> Preflight:
    """Of `imatrix`, which makes no artifact: no engine runs it, llama-quantize reads it."""
    size = sum(8 * tensor.shape[-1] for tensor in facts.tensors if len(tensor.shape) > 1)
    tokens = calibration.samples * calibration.length
    memory = memory_need(*passing_memory(facts, tokens, sampled=calibration.source == SELF))
    return Preflight(
        step="imatrix",
        model=facts.path,
        architecture=facts.architecture,
        parameters=facts.parameters,
        makes="importance matrix",
        time=measuring_time(facts, calibration),
        memory=memory,
        disk=disk_need(out, {"importance matrix": float(size)}),
        warnings=_shortage(memory),
    )


def memory_need(expected: int, rests_on: str) -> MemoryNeed:
    """An expectation as an interval, and what this machine has.

    Factors were chosen above every peak that was measured, so there is more room below.
    """
    total = Interval(expected=expected, low=expected / 1.3, high=expected * 1.1, rests_on=rests_on)
    return MemoryNeed(total=total, available=this_cpu().memory_bytes)


def disk_need(out: Path, parts: dict[str, float]) -> DiskNeed:
    """What is still to be written under `out`: what lies there under a work folder's name is reserved already."""
    place = out.absolute()
    while not os.path.exists(place):  # without rights to look, Path.exists raises
        place = place.parent
    held = sum(_held(path) for name in (".work", ".prepared", ".float") for path in (out / name).rglob("*"))
    needed = max(int(sum(parts.values())) - held, 0)
    return DiskNeed(
        where=str(place),
        parts=tuple(Share(what=what, amount=amount) for what, amount in parts.items()),
        needed=needed,
        free=shutil.disk_usage(place).free,
    )


def _held(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else 0
    except OSError:
        return 0  # a run that is at work has removed it


def device_need(plan: Plan, name: str) -> DeviceNeed | None:
    """What each device will hold at its peak; `None` for the processor, and where `auto` finds no other."""
    kind = read_device(name).kind
    found = None if kind in (CPU, "mps") else this_gpu()
    if kind == CPU or (kind == "auto" and found is None) or not needs_text(plan):
        return None
    expected, rests_on = device_memory(plan)
    total = Interval(expected=expected, low=expected / 1.5, high=expected * 1.5, rests_on=rests_on)
    return DeviceNeed(name=name, total=total, available=0 if found is None else found.memory_bytes)


def _assembled(
    plan: Plan, step: Step, time: TimeNeed, disk: DiskNeed, memory: MemoryNeed, device: DeviceNeed | None = None
) -> Preflight:
    return Preflight(
        step=step,
        model=plan.model.path,
        architecture=plan.model.architecture,
        parameters=plan.model.parameters,
        makes=f"{plan.format} {plan.type}",
        method=f"{plan.method} ({plan.effort})",
        file_bytes=plan.file_bytes,
        bits_per_weight=plan.bits_per_weight,
        time=time,
        memory=memory,
        disk=disk,
        device=device,
        engines=engine_fits(plan),
        ragged=_ragged(plan.tensors),
        kept=_kept(plan.tensors),
        warnings=(*plan.warnings, *_shortage(memory), *_device_shortage(device)),
    )


def _shortage(memory: MemoryNeed) -> tuple[str, ...]:
    if memory.total.expected <= memory.available:
        return ()
    needed, there = format_bytes(memory.total.expected), format_bytes(memory.available)
    advice = "fewer or shorter --samples, --calibration with a file, or --method rtn take less"
    return (f"{needed} of working memory are expected, this machine has {there}: {advice}",)


def _device_shortage(device: DeviceNeed | None) -> tuple[str, ...]:
    if device is None or not device.available or device.total.expected <= device.available:
        return ()
    needed, there = format_bytes(device.total.expected), format_bytes(device.available)
    return (f"{needed} are expected on {device.name}, it has {there}: --device cpu needs none of it",)


def _ragged(tensors: tuple[TensorPlan, ...]) -> tuple[Ragged, ...]:
    """Rows that hold no whole blocks; a group size that divides no row is refused before, by name (tensors.py)."""
    found: dict[tuple[int, str], list[str]] = {}
    for entry in tensors:
        if RAGGED in entry.reason:
            done = entry.reason.rpartition(": ")[2]
            found.setdefault((entry.shape[-1], done), []).append(entry.name)
    return tuple(Ragged(tensors=tuple(names), inputs=inputs, done=done) for (inputs, done), names in found.items())


def _kept(tensors: tuple[TensorPlan, ...]) -> tuple[Kept, ...]:
    found: dict[tuple[str, str], list[TensorPlan]] = {}
    for entry in tensors:
        if not is_quantized(entry):
            found.setdefault((entry.scheme.label, entry.reason), []).append(entry)
    return tuple(
        Kept(
            tensors=tuple(entry.name for entry in entries),
            type=label,
            bytes=sum(entry.bytes for entry in entries),
            because=because,
        )
        for (label, because), entries in found.items()
    )
