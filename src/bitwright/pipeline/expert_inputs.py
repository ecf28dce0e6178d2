"""What enters the experts of a block: their own tokens, and what else could have been sent to them.

An expert's statistics come from the tokens that the router sends it. Few tokens leave most directions of its input
unseen, and error feedback along unseen directions is noise. So a Gram matrix of own tokens is blended with that of all
tokens that entered the layer, which counts as `inputs` tokens: n own tokens weigh n, the layer weighs as much as one
token per input. What enters a down projection of tokens that were sent elsewhere is had by passing some of them
through this expert's gate and up projections. Mean squares need fewer tokens: there the layer's stand in for an expert
that saw fewer than a quarter as many tokens as its linear has inputs. Such an expert counts as not covered.

Source: docs/methods/moe.md (the measurement behind the weights).
Dimension key: N tokens · H hidden · I inputs
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitwright.calibration.statistics import InputStatistics, MeanSquare
from bitwright.facts.blocks import Group
from bitwright.modeling.copies import device_of
from bitwright.modeling.experts import Expert

SHARE = 4  # an expert is covered by one token for every so many inputs
BORROWED = 2  # tokens of the layer that pass through an expert, for every input of its down projection


def least_tokens(inputs: int) -> int:
    """Tokens from which on an expert counts as covered."""
    return max(1, -(-inputs // SHARE))


def is_covered(group: Group, tokens: int, inputs: int) -> bool:
    """Whether what was seen of a group's input is enough. Only experts can miss tokens."""
    return group.expert is None or tokens >= least_tokens(inputs)


def borrowing_note(tokens: int, everything: int, inputs: int) -> str:
    """One sentence for the record of an expert that is not covered."""
    return (
        f"{tokens} of {everything} tokens were routed to this expert, fewer than {least_tokens(inputs)}: "
        "statistics of all tokens that entered the layer"
    )


def blended(own: InputStatistics, layer: InputStatistics, where: str) -> NDArray[np.float32]:
    """The Gram matrix of an expert, [I, I]: own tokens, and the layer's with the weight of one token per input."""
    theirs_II = layer.gram(where)
    if not own.tokens:
        return theirs_II
    share = np.float32(own.tokens / (own.tokens + len(theirs_II)))
    result: NDArray[np.float32] = share * own.gram(where) + (1 - share) * theirs_II
    return result


class Routed:
    """The input of a block's router, kept while the block is worked on. Memory: the hidden states once more, on the
    devices that batches ran on."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []
        self._common: InputStatistics | None = None
        self.tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Keep [..., H]."""
        self._parts.append(inputs.detach().reshape(-1, inputs.shape[-1]))
        self.tokens += len(self._parts[-1])

    def statistics(self, block: nn.Module, group: Group) -> InputStatistics:
        """Statistics of `group` over the layer's tokens, on the device of `block`; those of the experts' common input
        are taken once."""
        common = len(group.modules) > 1
        if common and self._common is not None:
            return self._common
        found = InputStatistics(_inputs_of(block, group))
        for inputs in self.inputs(block, group):
            found.add(inputs)
        if common:
            self._common = found
        return found

    def mean_square(self, block: nn.Module, group: Group, *, sampled: bool = False) -> MeanSquare:
        """The diagonal alone, and a sample of tokens if asked for."""
        running = MeanSquare(sampled=sampled)
        for inputs in self.inputs(block, group):
            running.add(inputs)
        return running

    @torch.no_grad()
    def inputs(self, block: nn.Module, group: Group) -> Iterator[torch.Tensor]:
        """What would enter the expert's group of the layer's tokens, part by part."""
        device = device_of(block)
        if len(group.modules) > 1:
            yield from (part.to(device) for part in self._parts)
            return
        expert = block.get_submodule(group.leader.rpartition(".")[0])
        assert isinstance(expert, Expert), group.leader
        step = max(1, self.tokens // (BORROWED * _inputs_of(block, group)))
        for part in self._parts:
            yield expert.inner(part[::step].to(device))


def _inputs_of(block: nn.Module, group: Group) -> int:
    return int(block.get_submodule(group.leader).get_parameter("weight").shape[1])
