"""What `--device` asks for, read without torch: a kind of processor, and which of its cards.

    cpu          the default
    cuda         the first NVIDIA card; `cuda:1` another; `cuda:0,1` two that share the batches
    mps          an Apple chip's graphics processor
    auto         `cuda` where it can be used, else `cpu`

Not here: whether the machine has it (tensors/devices.py).
"""

from __future__ import annotations

import re
from typing import Literal

from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, did_you_mean

Kind = Literal["cpu", "cuda", "mps", "auto"]
KINDS: tuple[Kind, ...] = ("cpu", "cuda", "mps", "auto")
CPU = "cpu"
NUMBERS = re.compile(r"\d{1,4}(,\d{1,4})*")


class DeviceRequest(Record, frozen=True, kw_only=True):
    """A kind, and the cards of it in the order in which they are dealt batches."""

    kind: Kind
    indices: tuple[int, ...] = (0,)


def read_device(name: str) -> DeviceRequest:
    """Raises `UsageError` for a name that is none of the above."""
    kind, colon, numbers = name.partition(":")
    if kind not in KINDS:
        raise UsageError(f"unknown device `{name}`", hint=did_you_mean(kind, list(KINDS)))
    if not colon:
        return DeviceRequest(kind=kind)
    if kind != "cuda":
        raise UsageError(f"`{name}`: {kind} takes no number", hint=f"use --device {kind}")
    if NUMBERS.fullmatch(numbers) is None:
        raise UsageError(f"`{name}` does not name cards", hint="use --device cuda, cuda:1 or cuda:0,1")
    indices = tuple(int(number) for number in numbers.split(","))
    if len(set(indices)) < len(indices):
        raise UsageError(f"`{name}` names a card twice", hint="give every card once: cuda:0,1")
    return DeviceRequest(kind=kind, indices=indices)
