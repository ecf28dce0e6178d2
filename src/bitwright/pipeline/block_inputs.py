"""Statistics of what enters every group of linears in one block.

Methods without feedback need one pass of the bare block; so does the choice of column scales. Feedback takes its Gram
matrices stage by stage on inputs that the already quantized weights produced. Experts are counted with their own
tokens and with those that entered the layer (expert_inputs.py); weights of tokens (sensitivity.py)
are known for whole layers and not for experts, whose tokens all count alike.

Not here: solving (blocks.py), the rewrite (rescale.py).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitwright.calibration.statistics import InputStatistics, MeanSquare
from bitwright.core.plan import Method, ModelFacts, TensorPlan
from bitwright.facts.blocks import ROUTED, Group, block_folds
from bitwright.facts.families import BLOCK, FAMILIES, InputGroup
from bitwright.modeling.walk import Walker
from bitwright.pipeline.expert_inputs import Routed, blended, borrowing_note, is_covered
from bitwright.pipeline.input_ranges import InputRanges
from bitwright.pipeline.rescale import rescale_block
from bitwright.quantize.smoothing import InputSample
from bitwright.quantize.statistics import Statistics
from bitwright.tensors.devices import CPU, fetched

TokenWeights = Mapping[InputGroup, torch.Tensor]


class BlockInputs:
    """The statistics of block `index` of a model, as they come in."""

    def __init__(
        self,
        facts: ModelFacts,
        index: int,
        block: nn.Module,
        groups: Mapping[InputGroup, Group],
        weights: TokenWeights,
        method: Method,
        *,
        reduced: bool = False,
        act_order: bool = True,
        ranges: InputRanges,
        device: torch.device = CPU,
    ) -> None:
        """`reduced` takes Gram matrices by products in bfloat16; `ranges` are what stored scales are taken from.
        Factors are taken on `device`."""
        self.tokens: dict[InputGroup, int] = {}  # that each expert's linears saw
        self.known: dict[InputGroup, Statistics] = {}  # after a float pass
        self.copies: Sequence[nn.Module] = (block,)  # that batches run on; the first answers for experts
        self._facts, self._index, self._block = facts, index, block
        self._groups, self._weights, self._method = groups, weights, method
        self._reduced, self._act_order, self._ranges, self._device = reduced, act_order, ranges, device
        self._prefix = BLOCK.format(layer=index)
        self._said: dict[str, str] = {}  # what was done to a tensor's columns
        self._borrowed: dict[InputGroup, str] = {}
        self._squares: dict[InputGroup, MeanSquare] = {}
        self._running: dict[InputGroup, InputStatistics] = {}
        self._routed = Routed()

    def float_pass(
        self, walker: Walker, batches: Iterable[torch.Tensor], sampled: Collection[InputGroup] = ()
    ) -> Iterator[torch.Tensor]:
        """Run the block as it is: mean squares of every group's input, samples of some. Yields outputs one by one; what
        was counted is complete when all have been taken."""
        self._squares = {name: MeanSquare(sampled=name in sampled) for name in self._groups}
        routed = Routed()

        def see(group: Group, inputs: torch.Tensor) -> None:
            seen = self._squares[group.name]
            if inputs.numel():  # an expert may see no token of a batch
                seen.add(inputs, self._part(group, seen.tokens, inputs))
            if group.name == ROUTED:
                routed.add(inputs)

        yield from self._watched(walker, batches, see)
        for group in self._groups.values():
            if not self._count(group, self._squares[group.name].tokens, routed.tokens):
                self._squares[group.name] = routed.mean_square(self.copies[0], group, sampled=group.name in sampled)

    def range_pass(self, walker: Walker, batches: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Run the block as it was prepared: the magnitudes that scales of inputs reach to, in `known`. Yields outputs.

        Complete when all have been taken.
        """
        routed = Routed()

        def see(group: Group, inputs: torch.Tensor) -> None:
            self._ranges.add(group.name, inputs)
            if group.name == ROUTED:
                routed.add(inputs)

        yield from self._watched(walker, batches, see)
        for name in self._ranges.groups:
            if name in self._borrowed:
                self._see_layer(routed, self._groups[name])
            self.known[name] = dataclasses.replace(self.known[name], peak=self._ranges.take(name, None))

    def _see_layer(self, routed: Routed, group: Group) -> None:
        for inputs in routed.inputs(self.copies[0], group):
            self._ranges.add(group.name, inputs)

    def _watched(
        self, walker: Walker, batches: Iterable[torch.Tensor], see: Callable[[Group, torch.Tensor], None]
    ) -> Iterator[torch.Tensor]:
        """Outputs of the block, batch by batch; `see` is told what enters every group."""

        def hook(group: Group) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
            return lambda _module, args: see(group, args[0])

        self.copies = walker.copies(self._block)
        handles = [
            block.get_submodule(group.leader).register_forward_pre_hook(hook(group))
            for block in self.copies
            for group in self._groups.values()
        ]
        turns = zip(itertools.cycle(self.copies), batches, strict=False)
        try:
            yield from fetched((walker.forward(block, part) for block, part in turns), len(self.copies))
        finally:
            for handle in handles:
                handle.remove()

    def prepare(self, plans: Mapping[str, TensorPlan], *, rescale: bool) -> None:
        """Fold scales where the plan says so; fills `known`."""
        self.copies = (self._block,)  # those on devices are out of date from here on
        found = {name: seen.mean(self._prefix + self._groups[name].leader) for name, seen in self._squares.items()}
        peaks = {name: seen.largest() for name, seen in self._squares.items()}
        if rescale:
            facts = self._facts
            self._said, scales = rescale_block(
                self._block, found, plans, self._prefix, block_folds(facts, self._index), heads=facts.heads,
                kv_heads=facts.kv_heads, norm_offset=FAMILIES[facts.family].norm_offset,
                samples={name: _sample(seen) for name, seen in self._squares.items() if seen.sample is not None},
            )  # fmt: skip
            for name, scales_I in scales.items():
                found[name] = (found[name] / np.square(scales_I)).astype(np.float32)
                amax_I = peaks[name]
                peaks[name] = None if amax_I is None else amax_I / torch.from_numpy(scales_I)
        for name, diagonal_I in found.items():
            self.known[name] = _of_diagonal(diagonal_I, peaks[name])
        self._squares = {}

    def observe(self, group: Group, inputs: torch.Tensor) -> None:
        """Count one batch of a staged run in."""
        if group.name == ROUTED:
            self._routed.add(inputs)
            return
        self._ranges.add(group.name, inputs)
        seen = self._running.setdefault(group.name, InputStatistics(inputs.shape[-1], reduced=self._reduced))
        if inputs.numel():
            seen.add(inputs, self._part(group, seen.tokens, inputs))

    def complete(self, group: Group) -> Statistics | None:
        """What is known of a group's input after all batches; `None` for the router's."""
        if group.name == ROUTED:
            return None
        seen = self._running.pop(group.name)
        if group.expert is not None:
            if not self._count(group, seen.tokens, self._routed.tokens) and group.name in self._ranges.groups:
                self._see_layer(self._routed, group)
            layer = self._routed.statistics(self.copies[0], group)
            gram_II = blended(seen, layer, self._prefix + group.leader)
            return self._statistics(gram_II, self._ranges.take(group.name, max(seen.peak, layer.peak)))
        gram_II = seen.take_gram(self._prefix + group.leader)
        return self._statistics(gram_II, self._ranges.take(group.name, seen.peak))

    def _statistics(self, gram_II: NDArray[np.float32], peak: float | None) -> Statistics:
        return Statistics.taking(gram_II, self._method, peak=peak, act_order=self._act_order, device=self._device)

    def notes(self, group: Group, name: str) -> tuple[str, ...]:
        """What to say of a tensor of the group in its record."""
        return tuple(filter(None, (self._said.get(name), self._borrowed.get(group.name))))

    def _count(self, group: Group, tokens: int, everything: int) -> bool:
        """Note what an expert saw, and whether that is enough."""
        inputs = self._block.get_submodule(group.leader).get_parameter("weight").shape[1]
        if group.expert is not None:
            self.tokens[group.name] = tokens
        covered = is_covered(group, tokens, inputs)
        self._borrowed.pop(group.name, None)
        if not covered:
            self._borrowed[group.name] = borrowing_note(tokens, everything, inputs)
        return covered

    def _part(self, group: Group, start: int, inputs: torch.Tensor) -> torch.Tensor | None:
        """The weights of the tokens in `inputs`, the first of which is token `start`."""
        if group.name not in self._weights:
            return None
        return self._weights[group.name][start : start + inputs.shape[:-1].numel()]


def _sample(seen: MeanSquare) -> InputSample:
    amax_I = seen.largest()
    assert seen.sample is not None
    assert amax_I is not None
    rows_NI, weights_N = seen.sample.tokens()
    return InputSample(rows_NI=rows_NI.numpy(), weights_N=weights_N.numpy(), amax_I=amax_I.numpy())


def _of_diagonal(diagonal_I: NDArray[np.float32], amax_I: torch.Tensor | None) -> Statistics:
    return Statistics(diagonal_I=diagonal_I, peak=None if amax_I is None else float(amax_I.max()))
