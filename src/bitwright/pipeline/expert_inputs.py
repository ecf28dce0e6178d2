"""What enters the experts of a block: their own tokens, or everything that could have been sent to them.

An expert's statistics come from the tokens that the router sends it. Few tokens leave most directions of its input
unseen, and feedback along unseen directions is noise; an expert that saw fewer than a quarter as many tokens as its
linear has inputs takes the statistics of all tokens that entered the layer instead, for its down projection passed
through its own gate and up projections. Both numbers stand in the record.

Source: docs/methods/moe.md (the bound and what was measured).
Dimension key: N tokens · H hidden · I inputs
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from bitwright.calibration.statistics import InputStatistics, MeanSquare
from bitwright.core.plan import Method
from bitwright.facts.blocks import Group
from bitwright.modeling.experts import Expert
from bitwright.quantize.solve import Statistics

SHARE = 4  # an expert is covered by one token for every so many inputs


def least_tokens(inputs: int) -> int:
    """Tokens from which on an expert's own statistics are taken."""
    return max(1, -(-inputs // SHARE))


def is_covered(group: Group, tokens: int, inputs: int) -> bool:
    """Whether what was seen of a group's input is enough. Only experts can miss tokens."""
    return group.expert is None or tokens >= least_tokens(inputs)


def coverage_note(tokens: int, everything: int, inputs: int) -> str:
    """One sentence for the record."""
    if tokens >= least_tokens(inputs):
        return f"{tokens} of {everything} tokens were routed to this expert"
    return (
        f"{tokens} of {everything} tokens were routed to this expert, fewer than {least_tokens(inputs)}: "
        "statistics of all tokens that entered the layer"
    )


class Routed:
    """The input of a block's router, kept while the block is worked on. Memory: the hidden states once more."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []
        self._shared: Statistics | None = None
        self.tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Keep [..., H]."""
        self._parts.append(inputs.detach().reshape(-1, inputs.shape[-1]))
        self.tokens += len(self._parts[-1])

    def statistics(self, block: nn.Module, group: Group, method: Method) -> Statistics:
        """Statistics of `group` over all tokens; those of the experts' common input are made once."""
        common = len(group.modules) > 1
        if common and self._shared is not None:
            return self._shared
        running: InputStatistics | None = None
        for inputs in self._inputs(block, group):
            running = running or InputStatistics(inputs.shape[-1])
            running.add(inputs)
        assert running is not None, "the router saw no token"
        found = Statistics.of(running.gram(group.leader), method, peak=running.peak)
        if common:
            self._shared = found
        return found

    def mean_square(self, block: nn.Module, group: Group, *, sampled: bool = False) -> MeanSquare:
        """The diagonal alone, and a sample of tokens if asked for."""
        running = MeanSquare(sampled=sampled)
        for inputs in self._inputs(block, group):
            running.add(inputs)
        return running

    @torch.no_grad()
    def _inputs(self, block: nn.Module, group: Group) -> Iterator[torch.Tensor]:
        if len(group.modules) > 1:
            yield from self._parts
            return
        expert = block.get_submodule(group.leader.rpartition(".")[0])
        assert isinstance(expert, Expert), group.leader
        for part in self._parts:
            yield expert.inner(part)
