"""The devices that a model's blocks run on, found and named.

Weights and hidden states live in the memory of the CPU; a device holds what one block needs (modeling/copies.py). What
CUDA is asked for is float32 as it stands: torch leaves TensorFloat-32 off unless it is told otherwise. Apple's chips
know no float64, so what is summed or factored in it stays on the CPU there.

Not here: what a request may look like (core/device_request.py).
Source: torch 2.13, notes on CUDA and MPS semantics.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch

from bitwright.core.device_request import DeviceRequest
from bitwright.core.errors import EnvironmentFault, UsageError

CPU = torch.device("cpu")
Devices = tuple[torch.device, ...]


def find_devices(request: DeviceRequest) -> Devices:
    """The devices of a request. Raises `EnvironmentFault` when the machine has none, `UsageError` for a card beyond."""
    match request.kind:
        case "cpu":
            return (CPU,)
        case "auto":
            return (torch.device("cuda", 0),) if torch.cuda.is_available() else (CPU,)
        case "mps":
            if not torch.backends.mps.is_available():
                raise EnvironmentFault(
                    "--device mps: torch finds no Apple graphics processor here", hint="leave --device out"
                )
            return (torch.device("mps"),)
        case "cuda":
            return _cards(request.indices)


def _cards(indices: Sequence[int]) -> Devices:
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        raise EnvironmentFault(
            f"--device cuda: torch {torch.__version__} is built without CUDA",
            hint="install a CUDA build of the same torch (docs/reference/devices.md), or leave --device out",
        )
    if not torch.cuda.is_available():
        raise EnvironmentFault(
            "--device cuda: torch finds no usable NVIDIA card",
            hint="check `nvidia-smi` and CUDA_VISIBLE_DEVICES, or leave --device out",
        )
    count = torch.cuda.device_count()
    absent = [index for index in indices if index >= count]
    if absent:
        raise UsageError(
            f"--device cuda:{absent[0]}: torch sees {count} card{'s' if count > 1 else ''} here, counted from 0",
            hint=f"use --device cuda:{count - 1} or lower",
        )
    return tuple(torch.device("cuda", index) for index in indices)


def label(devices: Devices) -> str:
    """What the bytes of an artifact depend on: which processors, and in which order they are dealt batches."""
    return ", ".join(_name(device) for device in devices)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def in_float64(values: torch.Tensor) -> torch.Tensor:
    """The values in float64, on the CPU where their device has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def fetched(outputs: Iterable[torch.Tensor], ahead: int) -> Iterator[torch.Tensor]:
    """Bring outputs to the CPU, each when `ahead` of them have been begun, so that no device waits for another."""
    begun: collections.deque[torch.Tensor] = collections.deque()
    for output in outputs:
        begun.append(output)
        if len(begun) == ahead:
            yield begun.popleft().cpu()
    while begun:
        yield begun.popleft().cpu()


@contextlib.contextmanager
def full_memory_said(devices: Devices) -> Iterator[None]:
    """A device whose memory does not suffice is the machine's fault, and said in a line."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise EnvironmentFault(
            f"out of memory on {label(devices)}",
            hint="free it of other programs, take a card with more memory, or leave --device out and go on elsewhere",
        ) from error
