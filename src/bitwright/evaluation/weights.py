"""Every tensor of an artifact held against the reference's: which are what rounding makes of them, and which are not.

It is done while something else reads the artifact: a `WeightsWatch` hands tensors through and compares block by block,
so that a validation decodes nothing twice. Memory: one block of both models.

A model that was changed as a whole (rotated, trained further) differs in most tensors. Then no tensor can be called
broken for being far away, and `transformed` says so; what is not finite, or off in one direction, still is.

Not here: the figures of one matrix (tiles.py), scales that were folded in on purpose (folds.py), what a difference
means (causes.py).
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.errors import InputError
from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.core.protocols import SILENT, Progress, RoundsInputs, WeightSource
from bitwright.core.schemes import InputRounding
from bitwright.evaluation.folds import FoldScales, Torn, block_scales, head_scales
from bitwright.evaluation.orders import steps_by_scale
from bitwright.evaluation.tiles import Fit, exact, fit
from bitwright.facts.families import EMBEDDING, FAMILIES, HEAD
from bitwright.tensors.qtensor import QTensor

FULL = 16.0  # bits of what is stored in floating point
FITTED = 0.01  # a bias goes with factors that were fitted to rounded rows, which err by a per cent or two
FOLLOWS = 0.8  # a broken reader that took up a norm's scales is nearer with them
APART, TINY = 0.2, 1e-6  # of mean logarithms, and the least factor
MOST_TENSORS = 0.5  # more than this share too far away: the model was changed as a whole
LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TensorCheck:
    """One tensor. Its values are not kept: models are larger than memory."""

    name: str
    bits: float
    fit: Fit | None = None
    fault: str = ""  # why it could not be read or compared

    @property
    def sound(self) -> bool:
        return not self.fault and self.fit is not None and self.fit.sound


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class WeightsCheck:
    """All tensors, and names that only one of the two has."""

    tensors: tuple[TensorCheck, ...]
    missing: tuple[str, ...] = ()  # of the artifact
    extra: tuple[str, ...] = ()

    @property
    def transformed(self) -> bool:
        """Most matrices are far from the reference's: no accident."""
        return self.far > MOST_TENSORS * len(self._matrices)

    @property
    def far(self) -> int:
        """Matrices beyond their limit."""
        return sum(found.off for found in self._matrices)

    @property
    def _matrices(self) -> list[Fit]:
        return [tensor.fit for tensor in self.tensors if tensor.fit is not None and len(tensor.fit.lost) > 1]

    @property
    def unsound(self) -> tuple[TensorCheck, ...]:
        """All that rounding does not explain, in the order of the forward pass."""
        return tuple(tensor for tensor in self.tensors if not tensor.sound)

    @property
    def broken(self) -> tuple[TensorCheck, ...]:
        """Those that are certainly broken, though the model may have been changed as a whole."""
        if self.transformed:
            return tuple(one for one in self.tensors if one.fault or (one.fit is not None and one.fit.certain))
        return self.unsound


class WeightsWatch:
    """The artifact as a `WeightSource` that compares what passes. `watch` makes one."""

    def __init__(self, reference: WeightSource, artifact: WeightSource) -> None:
        self._reference = reference
        self._artifact = artifact
        self._known = {*reference.names(), HEAD}
        self._bits = {tensor.name: bits_of(tensor) for tensor in artifact.facts.all_tensors}
        self._held: dict[str, torch.Tensor] = {}
        self._layer: int | None = None
        self._found: dict[str, TensorCheck] = {}
        self.scales: dict[int | None, FoldScales] = {}  # of blocks in which something was not sound as it stands

    @property
    def facts(self) -> ModelFacts:
        return self._artifact.facts

    @property
    def config(self) -> dict[str, Any]:
        return self._artifact.config

    def names(self) -> Iterable[str]:
        return self._artifact.names()

    def load(self, name: str) -> torch.Tensor:
        """The artifact's tensor; the block before it is compared when another one begins."""
        value: torch.Tensor = self._artifact.load(name)
        layer = layer_of(name)
        if layer != self._layer:
            self._settle()
            self._layer = layer
        if name in self._known and name not in self._found:
            self._held[name] = value
        return value

    def finish(self, progress: Progress = SILENT) -> WeightsCheck:
        """Read and compare what nobody has asked for."""
        left = [name for name in self.names() if name not in self._found and name not in self._held]
        progress.start("comparing weights", len(left), "tensors")
        try:
            for name in sorted(left, key=lambda name: -1 if (layer := layer_of(name)) is None else layer):
                try:
                    self.load(name)
                except InputError as error:
                    self._found[name] = TensorCheck(name=name, bits=self._bits.get(name, FULL), fault=error.message)
                progress.advance()
        finally:
            progress.stop()
        self._settle()
        here, there = set(self._reference.names()), set(self.names())
        facts = self._reference.facts
        listed = FAMILIES[facts.family].all_tensors(facts.layers, tied=False, experts=facts.experts)
        order = {name: place for place, name in enumerate(listed)}
        found = [check for name, check in self._found.items() if name in self._known]
        return WeightsCheck(
            tensors=tuple(sorted(found, key=lambda check: order.get(check.name, len(order)))),
            missing=tuple(sorted(here - there - ({HEAD} if self._artifact.facts.tied else set()))),
            extra=tuple(sorted(there - here - {HEAD})),
        )

    def steps_of(self, name: str, value: QTensor | None) -> float | None:
        """How many steps of its scales a matrix lies beside the reference, in the median; `None` without codes."""
        if value is None:
            return None
        here, there = self._reference.load(name).float(), self._artifact.load(name).float()
        scales = self.scales.get(layer_of(name))
        steps = steps_by_scale(here if scales is None else scales.scaled(name, here), there, value)
        return float(steps.median())

    def error_of(self, name: str) -> NDArray[np.float32] | None:
        """What rounding added to a sound matrix, [O, I], where no scale was folded in; `None` for any other tensor."""
        check = self._found.get(name)
        if check is None or not check.sound:
            return None
        here, there = self._reference.load(name).float(), self._artifact.load(name).float()
        scales = self.scales.get(layer_of(name))
        folded = torch.ones(()) if scales is None else scales.scaled(name, torch.ones_like(here))
        error: NDArray[np.float32] = (there / folded - here).numpy()
        return error

    def nearer(self, name: str, share: float) -> torch.Tensor:
        """A sound matrix [O, I] without `share` of what rounding added to it, in the scales that were folded in."""
        here, there = self._reference.load(name).float(), self._artifact.load(name).float()
        scales = self.scales.get(layer_of(name))
        return torch.lerp(there, here if scales is None else scales.scaled(name, here), share)

    def _settle(self) -> None:
        """Compare what is held, once as it stands and once with the scales that were folded in, and let it go."""
        held, self._held = self._held, {}
        if not held:
            return
        original = {name: self._reference.load(reference_name(name, self._reference.facts)).float() for name in held}
        for name, value in held.items():
            self._found[name] = self._compared(name, original[name], value)
        if all(self._found[name].sound for name in held):
            return
        if self._layer is None:
            scales = head_scales(self._reference.facts, original, held)
        else:
            scales = block_scales(self._reference.facts, self._layer, original, held)
        self.scales[self._layer] = scales
        self._excuse(original, held, scales)

    def _compared(self, name: str, here: torch.Tensor, there: torch.Tensor) -> TensorCheck:
        bits = self._bits.get(name, FULL)
        if here.shape != there.shape:
            fault = f"`{name}` is {list(there.shape)}, the reference's is {list(here.shape)}"
            return TensorCheck(name=name, bits=bits, fault=fault)
        return TensorCheck(name=name, bits=bits, fit=fit(here, there, bits))

    def _excuse(self, here: dict[str, torch.Tensor], there: dict[str, torch.Tensor], scales: FoldScales) -> None:
        """What is sound as it stands stays so."""
        for name, value in there.items():
            if self._found[name].sound or self._found[name].fault or name in scales.norms:
                continue
            again = self._compared(name, scales.scaled(name, here[name]), value)
            fitted = name.endswith(".bias") and again.fit is not None and again.fit.error < FITTED
            if again.sound or fitted:
                self._found[name] = dataclasses.replace(again, fit=exact()) if fitted else again
        for norm, readers in scales.norms.items():
            if norm in there and any(self._follows(name, here, there, scales) for name in readers if name in there):
                self._found[norm] = dataclasses.replace(self._found[norm], fit=exact())
                for name in readers:  # one that fits as it stands was left out
                    again = self._compared(name, scales.scaled(name, here[name]), there[name])
                    if self._found[name].sound and not again.sound:
                        self._found[name] = again
        for pair in scales.torn:
            self._blame_one(pair, here, there, scales)

    def _follows(
        self, name: str, here: dict[str, torch.Tensor], there: dict[str, torch.Tensor], scales: FoldScales
    ) -> bool:
        """Whether a reader took up what its norm was divided by, even if it is broken otherwise."""
        if self._found[name].sound:
            return self._compared(name, scales.scaled(name, here[name]), there[name]).sound
        before, after = self._found[name].fit, self._compared(name, scales.scaled(name, here[name]), there[name]).fit
        return before is not None and after is not None and after.error < FOLLOWS * before.error

    def _sounder(self, again: TensorCheck) -> TensorCheck:
        return again if again.sound else self._found[again.name]

    def _blame_one(
        self, torn: Torn, here: dict[str, torch.Tensor], there: dict[str, torch.Tensor], scales: FoldScales
    ) -> None:
        """Of two that share folded scales one may be broken: the other is what factors of its own explain."""
        pair = torn.absorber, torn.reader
        if all(self._found[name].sound for name in pair):
            return
        scaled = scales.scaled(torn.absorber, here[torn.absorber])
        alone = (
            self._compared(torn.absorber, scaled * torn.rows[:, None], there[torn.absorber]),
            self._compared(torn.reader, here[torn.reader] * torn.columns, there[torn.reader]),
        )
        sound = [check.sound or self._found[check.name].sound for check in alone]
        if all(sound):  # methods keep the mean of their scales near one, so the one that is off as a whole is broken
            off = [float(gains.clamp_min(TINY).log().mean().abs()) for gains in (torn.rows, torn.columns)]
            sound = [off[0] < off[1] - APART, off[1] < off[0] - APART]
        if sound[0] and not sound[1]:
            self._found[torn.absorber] = self._sounder(alone[0])
            scales.columns[torn.reader] = 1 / torn.made.clamp_min(TINY)
        elif sound[1] and not sound[0]:
            self._found[torn.reader] = self._sounder(alone[1])
            scales.rows[torn.absorber] = 1 / torn.rows_read.clamp_min(TINY)


class RoundingWatch(WeightsWatch):
    """The same of an artifact whose engine rounds inputs."""

    def input_rounding(self, module: str) -> InputRounding | None:
        assert isinstance(self._artifact, RoundsInputs)
        return self._artifact.input_rounding(module)


def watch(reference: WeightSource, artifact: WeightSource) -> WeightsWatch:
    """Look at the artifact's tensors as they are read."""
    kind = RoundingWatch if isinstance(artifact, RoundsInputs) else WeightsWatch
    return kind(reference, artifact)


def reference_name(name: str, reference: ModelFacts) -> str:
    """What a tensor is held against: a head that the reference ties is its embedding."""
    return EMBEDDING if name == HEAD and reference.tied else name


def layer_of(name: str) -> int | None:
    """The block that a tensor is part of."""
    found = LAYER.match(name)
    return int(found[1]) if found else None


def bits_of(tensor: TensorFacts) -> float:
    """Bits per weight as stored, scales included."""
    return 8 * tensor.bytes / max(math.prod(tensor.shape), 1)
