"""The stored scales of inputs under another rule than the largest magnitude: one observer for every group of linears.

Statistics keep the largest magnitude in any case, so `minmax` needs nothing of this. Other rules need histograms of
what enters the linears as they will be stored: after columns were scaled, hence in a pass of its own where methods know
no feedback, and on the inputs that rounded weights made where they do. An expert that saw few tokens is given those of
its layer too (expert_inputs.py).

Not here: the rules (calibration/observers.py), the scale (quantize/activations.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from bitwright.calibration.observers import Observer
from bitwright.calibration.sharing import Sharing
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.schemes import WeightScheme, static_inputs
from bitwright.facts.blocks import Group
from bitwright.facts.families import InputGroup

NewObserver = Callable[[], Observer]


def new_observer(plan: Plan) -> NewObserver | None:
    """Makes the observers of a plan; `None` where the largest magnitude is the rule."""
    if plan.observer == "minmax":
        return None
    return lambda: Observer(plan.observer, Sharing(), percentile=plan.percentile)


def stored_elements(
    groups: Mapping[InputGroup, Group], plans: Mapping[str, TensorPlan], prefix: str
) -> dict[InputGroup, str]:
    """What inputs are rounded to, of the groups whose readers store a scale for them."""
    found = {}
    for name, group in groups.items():
        elements = (stored_element(plans[f"{prefix}{module}.weight"].scheme) for module in group.linears)
        known = next(filter(None, elements), None)
        if known is not None:
            found[name] = known
    return found


def stored_element(scheme: WeightScheme) -> str | None:
    """What inputs are rounded to under a stored scale, `None` where none is stored."""
    inputs = static_inputs(scheme)
    return None if inputs is None else inputs.element


class InputRanges:
    """What was seen of every group in `elements`."""

    def __init__(self, new: NewObserver | None, elements: Mapping[InputGroup, str]) -> None:
        self._new, self._elements = new, elements if new is not None else {}
        self._seen: dict[InputGroup, Observer] = {}

    @property
    def groups(self) -> frozenset[InputGroup]:
        """Those that are watched."""
        return frozenset(self._elements)

    def add(self, group: InputGroup, inputs: torch.Tensor) -> None:
        """Count [..., I] in, if the group is watched."""
        if group not in self._elements or not inputs.numel():
            return
        if group not in self._seen:
            assert self._new is not None
            self._seen[group] = self._new()
        self._seen[group].add(inputs.detach().float().cpu().numpy())

    def take(self, group: InputGroup, largest: float | None) -> float | None:
        """The magnitude that the group's scale reaches to, and forget the group; `largest` where none is watched."""
        if group not in self._elements:
            return largest
        return self._seen.pop(group).peak(self._elements[group])
