"""Casts to F16: what does not fit is found before anything is written, what loses bits is noted.

F16 ends at 65504. The cast makes what lies beyond 65520 infinite, and an engine that multiplies by infinity answers
with nothing. BF16 and F32 have the range of the model's own type. So a plan with F16 tensors is held against the values
first, some rows of a tensor in memory at a time: all tensors that overflow are named at once, with how many values and
the largest. A plan may say `saturate`; then 65504 takes their place.
At the other end F16 has normal values from 2^-14 and nothing below 2^-25: those are counted.

Not here: the bytes (formats/layout.py: float_bytes).
Source: IEEE 754-2019, binary16.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.protocols import Progress
from bitwright.core.schemes import FloatScheme, GgmlScheme
from bitwright.tensors.qtensor import Float32

LARGEST = float(np.finfo(np.float16).max)  # 65504
LEAST_NORMAL = float(np.finfo(np.float16).smallest_normal)  # 2^-14
LEAST = 2.0**-25  # half of the smallest subnormal: it and all below become 0
NAMED = 5  # tensors that a message lists


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CastLoss:
    """What a cast to F16 does to one tensor."""

    values: int = 0
    beyond: int = 0  # magnitudes over 65504
    largest: float = 0.0
    subnormal: int = 0  # not zero, and kept with fewer bits
    vanished: int = 0  # not zero, and stored as 0

    def __add__(self, other: CastLoss) -> CastLoss:
        """Of two parts of a tensor."""
        return CastLoss(
            values=self.values + other.values, beyond=self.beyond + other.beyond,
            largest=max(self.largest, other.largest), subnormal=self.subnormal + other.subnormal,
            vanished=self.vanished + other.vanished,
        )  # fmt: skip

    def notes(self) -> tuple[str, ...]:
        """For the record of a tensor."""
        found = []
        if self.beyond:
            found.append(
                f"F16: {self.beyond} of {self.values} values are beyond 65504, the largest {self.largest:g}; "
                "stored as 65504"
            )
        if self.subnormal:
            found.append(f"F16: {self.subnormal} of {self.values} values are below 2^-14 and keep fewer bits")
        if self.vanished:
            found.append(f"F16: {self.vanished} of {self.values} values are below 2^-25 and become 0")
        return tuple(found)


def is_half(entry: TensorPlan) -> bool:
    """Whether the tensor is stored as F16."""
    scheme = entry.scheme
    return scheme == FloatScheme(dtype="f16") or (isinstance(scheme, GgmlScheme) and scheme.type == "F16")


def cast_loss(values: NDArray[np.float32]) -> CastLoss:
    """Count."""
    magnitude = np.abs(values)
    small = (magnitude < LEAST_NORMAL) & (magnitude > 0)
    vanished = int((small & (magnitude <= LEAST)).sum())
    return CastLoss(
        values=values.size, beyond=int((magnitude > LARGEST).sum()), largest=float(magnitude.max(initial=0.0)),
        subnormal=int(small.sum()) - vanished, vanished=vanished,
    )  # fmt: skip


def saturated(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Values in the range of F16."""
    clipped: NDArray[np.float32] = np.clip(values, np.float32(-LARGEST), np.float32(LARGEST))
    return clipped


def check_casts(plan: Plan, read: Callable[[TensorPlan], Iterable[Float32]], progress: Progress) -> None:
    """Refuse what F16 cannot hold. Raises `InputError` that names the tensors, their counts and largest values.

    `read` gives a tensor part by part. Tensors that are F16 in the model are not read: they fit.
    """
    fitting = {tensor.name for tensor in plan.model.all_tensors if tensor.dtype == "F16"}
    if plan.model.adapter:  # which changes them
        fitting = set()
    entries = [entry for entry in plan.tensors if is_half(entry) and entry.name not in fitting]
    if plan.saturate or not entries:
        return
    found: dict[str, CastLoss] = {}
    progress.start("looking for overflow", len(entries), "tensors")
    for entry in entries:
        loss = sum(map(cast_loss, read(entry)), CastLoss())
        if loss.beyond:
            found[entry.name] = loss
        progress.advance()
    progress.stop()
    if found:
        raise InputError(_overflow(found), hint=_hint(plan))


def _overflow(found: dict[str, CastLoss]) -> str:
    worst = sorted(found, key=lambda name: -found[name].largest)
    rows = (f"`{name}` ({found[name].beyond} values, the largest {found[name].largest:g})" for name in worst[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    what = "1 tensor holds" if len(found) == 1 else f"{len(found)} tensors hold"
    return f"{what} values beyond 65504, which F16 cannot store: {', '.join(rows)}{more}"


def _hint(plan: Plan) -> str:
    way = "--type BF16" if plan.type == "F16" else "another --type"
    return f"use {way}, which keeps the range, or --force to store 65504 in their place"
