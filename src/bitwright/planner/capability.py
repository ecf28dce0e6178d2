"""What NVIDIA calls the generation of a device: kernels are written for it, and rules are said of it.

Not here: which kernels there are (facts/engine_kernels.toml).
"""

from __future__ import annotations

from bitwright.core.devices import DeviceFacts

Capability = tuple[int, int]


def capability_of(device: DeviceFacts) -> Capability | None:
    """NVIDIA's compute capability as two numbers, `None` where there is none."""
    return version_of(device.compute_capability or "")


def version_of(text: str) -> Capability | None:
    """`9.0` as numbers, `None` for anything else."""
    major, dot, minor = text.partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None
