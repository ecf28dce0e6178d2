"""`--device`: what may be asked for, before anything long begins. torch is loaded only where the answer needs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.core.device_request import CPU, read_device
from bitwright.core.errors import UsageError
from bitwright.core.plan import Plan

if TYPE_CHECKING:
    from bitwright.tensors.devices import Devices


def check_device(name: str) -> None:
    """Raise `UsageError` for a name that means nothing or a card that is not there, `EnvironmentFault` where no card
    can be used."""
    if read_device(name).kind not in (CPU, "auto"):
        devices_of(name)


def devices_of(name: str) -> Devices:
    """The devices themselves. Raises as `check_device`."""
    from bitwright.tensors.devices import find_devices

    return find_devices(read_device(name))


def device_for(plan: Plan, name: str) -> str:
    """`name` where quantizing by `plan` runs the model, else the CPU."""
    from bitwright.planner.duration import needs_text

    return name if needs_text(plan) else CPU


def check_used(plan: Plan, name: str) -> None:
    """Raise `UsageError` for a device that quantizing by `plan` would not touch."""
    if name != "auto" and device_for(plan, name) != name:
        raise UsageError(
            f"--device {name}: nothing of {plan.format} {plan.type} by {plan.method} without text runs on a device",
            hint="leave --device out; weights are rounded on the CPU",
        )
