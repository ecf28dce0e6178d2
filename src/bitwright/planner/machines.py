"""The machine that a deployment runs on, at one end of what is known of it.

Factors come in two kinds. What slows every type alike (bandwidth, launches, links) is `common`; what a kernel makes of
it is `own`. A figure moves both to the same end. A ratio of two types on the same machine moves the second alone.

`None` is said where nothing is known: a GPU without rates, a kernel that fails or that nobody has looked at.

Not here: the factors (facts/speed_factors.toml), the arithmetic (roofline.py).
"""

from __future__ import annotations

import dataclasses
import statistics

from bitwright.core.devices import DeviceFacts, Rates
from bitwright.core.machine import MachineCalibration, TypeCost
from bitwright.core.schemes import FloatScheme, GgmlScheme, WeightScheme
from bitwright.facts.speed_factors import (
    End,
    Spread,
    Where,
    besides,
    factor,
    ggml_costs,
    kernel_factor,
    processor,
)
from bitwright.planner.capability import place_of
from bitwright.planner.deployment import Deployment
from bitwright.planner.engine_names import LLAMA_CPP
from bitwright.planner.roofline import NANO, Cores, Machine, Roofline, Running

BLOCK = 256  # weights that fill blocks of every ggml type
HELD_UP = 1.1  # memory holds a type up that is read nearly as fast as any
GIGA, TERA, MICRO = 1e9, 1e12, 1e-6
LINK_GB_S = 64.0  # of a device whose links are not known: PCIe 4.0 x16, both directions
ASSUMED_CORES = 8  # of a processor that is not this one
MEASURED = Spread(slow=1.3, expected=1.0, fast=0.88)  # of times on calibrated cores; docs/reference/speed.md


@dataclasses.dataclass(frozen=True, slots=True)
class Ends:
    """Which end of the factors counts."""

    common: End
    own: End


def machine_of(deployment: Deployment, calibration: MachineCalibration | None, ends: Ends) -> Machine | None:
    """One replica's devices, or `None` where nothing honest can be said."""
    device = deployment.target.device
    how = deployment.kernel.how if deployment.kernel is not None else ""
    if how in ("fails", "unknown") or (how == "computes" and _lacks_rate(deployment)):
        return None
    if device.kind == "gpu" or (device.rates is not None and (device.rates.bf16 or device.rates.fp16)):
        return _roofline(deployment, calibration, ends)
    if deployment.engine != LLAMA_CPP:
        return None  # no table of other engines' kernels on processors
    return _cores(device, calibration, ends)


def _kind_of(deployment: Deployment) -> Where:
    """Whose factors hold: what is known of servers was measured on NVIDIA's devices."""
    if deployment.engine == LLAMA_CPP:
        return "llama.cpp"
    return "others" if isinstance(place_of(deployment.target.device), str) else "server"


def _roofline(deployment: Deployment, calibration: MachineCalibration | None, ends: Ends) -> Roofline | None:
    device, ways = deployment.target.device, deployment.tensor_parallel
    where = _kind_of(deployment)
    rates = device.rates
    peak = (rates.bf16 or rates.fp16) if rates is not None else None
    if device.bandwidth_gb_s is None or peak is None:
        return None
    bandwidth = device.bandwidth_gb_s * factor(where, "bandwidth").at(ends.common)
    products = peak * factor(where, "products").at(ends.common)
    if calibration is not None:
        bandwidth = calibration.copy_gb_s * factor(where, "copied").at(ends.common)
        measured = [row.tera_per_second for row in calibration.products if row.type in ("bf16", "fp16")]
        products = max(measured) * factor(where, "multiplied").at(ends.common) if measured else products
    share = products / peak

    def running(scheme: WeightScheme) -> Running:
        return _running(deployment, scheme, rates, peak * TERA, share, ends.own)

    assert rates is not None
    one_way = (device.link_gb_s or LINK_GB_S) / 2
    return Roofline(
        bandwidth=bandwidth * GIGA,
        rate=products * TERA,
        running=running,
        block=factor(where, "block").at(ends.common) * MICRO,
        allreduce=factor(where, "allreduce").at(ends.common) * MICRO,
        link=one_way * GIGA * factor(where, "link").at(ends.common),
        ways=ways,
        cache_ways=min(ways, deployment.facts.kv_heads),
    )


def _running(
    deployment: Deployment, scheme: WeightScheme, rates: Rates | None, peak: float, share: float, end: End
) -> Running:
    """What the deployment's kernel makes of a scheme. Floats run on the library's own products."""
    kernel = deployment.kernel
    if kernel is None or is_float(scheme):
        return Running(bandwidth=1.0, rate=peak * share)
    if kernel.how == "expands":
        return Running(bandwidth=1.0, rate=peak * share, expanded=2.0)
    row = kernel_factor(kernel.how, deployment.engine, kernel.kernel)
    rate = rate_of(scheme, rates) if kernel.how == "computes" else None
    return Running(
        bandwidth=row.bandwidth.at(end),
        rate=(rate * TERA if rate is not None else peak) * share / row.inflation.at(end),
    )


def rate_of(scheme: WeightScheme, rates: Rates | None) -> float | None:
    """The device's rate for the type that inputs are rounded to; `None` where they stay, or where it has none."""
    activations = getattr(scheme, "activations", None)
    if activations is None or rates is None:
        return None
    return {"e4m3": rates.fp8, "int8": rates.int8, "e2m1": rates.fp4}[activations.element]


def _lacks_rate(deployment: Deployment) -> bool:
    """Whether inputs are rounded to a type whose rate on this device is not known."""
    rounded = (e.scheme for e in deployment.tensors if getattr(e.scheme, "activations", None) is not None)
    first = next(rounded, None)
    return first is not None and rate_of(first, deployment.target.device.rates) is None


def is_float(scheme: WeightScheme) -> bool:
    """Whether weights are multiplied as they are stored."""
    return isinstance(scheme, FloatScheme) or (isinstance(scheme, GgmlScheme) and scheme.is_float)


def _cores(device: DeviceFacts, calibration: MachineCalibration | None, ends: Ends) -> Cores:
    if calibration is not None and (measured := _measured(calibration)):
        return _calibrated(calibration, measured, MEASURED.at(ends.common))
    row = processor(device.architecture)
    cores = row.core.at(ends.common) * (device.cores or ASSUMED_CORES)
    bandwidth = row.bandwidth.at(ends.common)
    if device.bandwidth_gb_s is not None:
        bandwidth = device.bandwidth_gb_s * factor("llama.cpp", "bandwidth").at(ends.common)
    rest = besides()
    return Cores(
        bandwidth=bandwidth * GIGA,
        costs={kind: (cost.decode / cores, cost.prefill / cores) for kind, cost in ggml_costs().items()},
        attention_ns=rest.attention / cores,
        prompt_attention_ns=rest.prompt_attention / cores,
        block=rest.block * MICRO / row.core.at(ends.common),  # threads wait for each other here
        token=rest.token * NANO / cores,
    )


def _measured(found: MachineCalibration) -> dict[str, TypeCost]:
    """Types of the table that took any time: on a machine that was disturbed too much, none may be left."""
    return {cost.type: cost for cost in found.types if cost.type in ggml_costs() and cost.decode > 0}


def _calibrated(found: MachineCalibration, measured: dict[str, TypeCost], slowness: float) -> Cores:
    """Measured types as they are; of others, bytes at the measured bandwidth, or the table's cost times as much as the
    measured ones differ from it, in the middle of those that memory does not hold up.

    Weights that were read faster than a copy say more of the memory than the copy does, which writes too.
    """
    table = ggml_costs()
    read = {kind: GgmlScheme(type=kind).bytes_for(1, BLOCK) / BLOCK / cost.decode for kind, cost in measured.items()}
    bandwidth = max(found.copy_gb_s, *read.values())
    ratios = {kind: cost.decode / table[kind].decode for kind, cost in measured.items()}
    waiting = [kind for kind in measured if read[kind] * HELD_UP > bandwidth]
    decode = _middle([ratio for kind, ratio in ratios.items() if kind not in waiting]) or min(ratios.values())
    prefill = _middle([cost.prefill / table[kind].prefill for kind, cost in measured.items()])
    costs = {kind: (cost.decode * decode, cost.prefill * prefill) for kind, cost in table.items()}
    costs |= {kind: (cost.decode, cost.prefill) for kind, cost in measured.items()}
    return Cores(
        bandwidth=bandwidth * GIGA / slowness,
        costs={kind: (first * slowness, later * slowness) for kind, (first, later) in costs.items()},
        attention_ns=found.attention_ns * slowness,
        prompt_attention_ns=found.prompt_attention_ns * slowness,
        vocab_ns=found.vocab_ns * slowness,
        block=found.block_ns * NANO * slowness,
        token=found.token_ns * NANO * slowness,
    )


def _middle(values: list[float]) -> float:
    """The median, 0 of nothing."""
    return statistics.median(values) if values else 0.0
