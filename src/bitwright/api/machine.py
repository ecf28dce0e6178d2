"""Measure this machine, keep what was found, and give it to whoever predicts speed here.

One document a device, under the cache folder: another processor, another number of cores or another version of the
schema is another machine, whose plans go by the table until it is measured too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from bitwright.api.models import cache_folder
from bitwright.core.devices import DeviceFacts
from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import InputError, UsageError, from_os_error
from bitwright.core.machine import MachineCalibration
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import SpeedRecord
from bitwright.facts.hardware import find_device

Measure = Callable[..., SpeedRecord]
HERE = ("auto", "cpu")
FOLDER = "machines"


def calibrate(
    *, target: str = "auto", quick: bool = False, progress: Progress = SILENT
) -> tuple[MachineCalibration, Path]:
    """Run the micro-benchmarks of `target` (auto or cpu) and store their document, whose path is returned too.

    Raises `EnvironmentFault` where an engine is missing, or memory or disk does not suffice.
    """
    if target not in HERE:
        raise UsageError(f"`{target}` cannot be measured from here", hint=f"use --target {' or '.join(HERE)}")
    device = find_device(target)
    found = _gpu(device) if device.kind == "gpu" else measure_cpu(device, quick=quick, progress=progress)
    path = stored_path(device)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise from_os_error(error, path.parent) from error
    write_document(found, path)
    return found, path


def stored(device: DeviceFacts, target: str = "auto") -> MachineCalibration | None:
    """What was measured of this machine's `device`; `None` for a device that was looked up by its name, for one that
    was not measured, and for a document of another version."""
    path = stored_path(device)
    if target not in HERE or not path.is_file():
        return None
    try:
        found = read_document(MachineCalibration, path)
    except InputError:
        return None
    return found if (found.device, found.cores) == (device.name, device.cores) else None


def stored_path(device: DeviceFacts) -> Path:
    """Where the document of a device lies."""
    name = re.sub(r"[^a-z0-9]+", "-", device.name.lower()).strip("-")
    cores = "" if device.cores is None else f"-{device.cores}-cores"
    return cache_folder() / FOLDER / f"{name}{cores}.json"


def measure_cpu(
    device: DeviceFacts, *, quick: bool = False, take: Measure | None = None, progress: Progress = SILENT
) -> MachineCalibration:
    """Measure a processor and store nothing. `take` measures files in another way than `engines.speed.measure`."""
    from bitwright.core.provenance import provenance
    from bitwright.engines.machine_runs import run_engine
    from bitwright.engines.micro_benchmarks import copy_rate, product_rates
    from bitwright.engines.speed import measure
    from bitwright.planner.machine_fit import fit

    started = time.monotonic()
    progress.say("copying memory and multiplying matrices")
    copied, products = copy_rate(device.cores or 1), product_rates()
    runs = run_engine(take or measure, quick=quick, progress=progress)
    found = fit(runs.large, runs.short, runs.long, runs.headed, runs.paired)
    return MachineCalibration(
        device=device.name,
        kind="cpu",
        cores=device.cores,
        threads=runs.threads,
        copy_gb_s=copied,
        products=products,
        engine=runs.engine,
        runs=(*runs.large, runs.short, runs.long, runs.headed, *runs.paired),
        types=found.types,
        vocab_ns=found.vocab,
        block_ns=found.block,
        token_ns=found.token,
        attention_ns=found.attention,
        prompt_attention_ns=found.prompt_attention,
        seconds=time.monotonic() - started,
        provenance=provenance(),
    )


def _gpu(device: DeviceFacts) -> MachineCalibration:
    from bitwright.core.provenance import provenance
    from bitwright.engines.gpu_benchmarks import copy_rate, product_rates, torch_with_gpu

    started, torch = time.monotonic(), torch_with_gpu()
    copied, products = copy_rate(torch), product_rates(torch)
    return MachineCalibration(
        device=device.name,
        kind="gpu",
        threads=1,
        copy_gb_s=copied,
        products=products,
        seconds=time.monotonic() - started,
        provenance=provenance(),
    )
