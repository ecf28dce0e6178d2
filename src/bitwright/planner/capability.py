"""What the generation of a device is called: kernels are written for it, and rules are said of it.

NVIDIA counts compute capabilities, AMD and Intel give names. Apple's chips are planned as processors, on whose GPU
llama.cpp serves. A GPU that has no capability and does not stand in the table is nameless.

Not here: which kernels there are (facts/engine_kernels.toml).
"""

from __future__ import annotations

from bitwright.core.devices import DeviceFacts
from bitwright.facts.engine_kernels import Capability, Place, platform_of
from bitwright.planner.engine_names import ROWS

APPLE = "apple"


def place_of(device: DeviceFacts) -> Place:
    """What engines choose a kernel by: a compute capability, another architecture's name, `None` on processors."""
    if device.kind == "cpu":
        return APPLE if device.architecture == APPLE else None
    return capability_of(device) or device.architecture


def capability_of(device: DeviceFacts) -> Capability | None:
    """NVIDIA's compute capability as two numbers, `None` where there is none."""
    return version_of(device.compute_capability or "")


def takes_fp8_cache(engine: str, device: DeviceFacts) -> bool:
    """Whether keys and values in FP8 need no more than a flag: on devices of others only where that was looked up."""
    place = place_of(device)
    if not isinstance(place, str):
        return True
    found = platform_of(ROWS.get(engine, ""), place)
    return found is not None and found.fp8_cache


def version_of(text: str) -> Capability | None:
    """`9.0` as numbers, `None` for anything else."""
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None
