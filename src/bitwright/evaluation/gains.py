"""What more bits for a matrix save, by trying: the artifact is walked once more, with each of a few matrices nearer to
the reference's, and all of them at once.

A prediction to second order (pipeline/losses.py) ranks matrices and says whom to try. It does not measure: where an
artifact is far from its reference, it was up to nine times off (docs/log.md, 2026-11-22).

Each block is decoded once for all trials, which part from the artifact in the block that they change. Memory: one block
and a residual stream for each trial. Dimension key: W windows, T positions, H hidden. Not here: whom to try
(api/advice.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn

from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import Estimate
from bitwright.evaluation.divergence import Floats
from bitwright.evaluation.lockstep import BlockWalker, Walked
from bitwright.evaluation.score import score
from bitwright.evaluation.stats import mean_interval
from bitwright.facts.families import BLOCK

Trial = Sequence[str]  # names of matrices
BATCH = 4  # windows


class OpenWalker(BlockWalker, Protocol):
    """A walker whose blocks can be changed before they are run; `modeling.walk.Walker` is one."""

    def load_block(self, index: int) -> nn.Module: ...
    def forward(self, block: nn.Module, hidden_WTH: torch.Tensor) -> torch.Tensor: ...


def gains(
    reference: BlockWalker,
    artifact: OpenWalker,
    walked: Walked,
    tokens_WT: torch.Tensor,
    trials: Sequence[Trial],
    nearer: Callable[[str], torch.Tensor],
    *,
    progress: Progress = SILENT,
) -> list[Estimate]:
    """What each trial saves in mean KL, nats per token, with the interval that its windows give. `walked` is of both
    models on the same tokens, `nearer` the matrix [O, I] that a trial has instead of the artifact's.
    """
    streams = _streams(artifact, tokens_WT, trials, nearer, progress)

    def kl_of(stream_WTH: torch.Tensor) -> Floats:
        both = Walked(reference=walked.reference, artifact=stream_WTH, layers=())
        found = score(reference, artifact, both, tokens_WT, progress=SILENT)
        return np.asarray(found.measures.kl[:, found.scored].mean(axis=1))

    before_W = kl_of(walked.artifact)
    return [mean_interval(before_W - kl_of(stream)) for stream in streams]


def _streams(
    artifact: OpenWalker,
    tokens_WT: torch.Tensor,
    trials: Sequence[Trial],
    nearer: Callable[[str], torch.Tensor],
    progress: Progress,
) -> list[torch.Tensor]:
    """The residual stream after the last block of every trial."""
    plain = artifact.embed(tokens_WT)
    apart: dict[int, torch.Tensor] = {}
    progress.start("trying more bits", artifact.layers, "blocks")
    try:
        for index in range(artifact.layers):
            block, prefix = artifact.load_block(index), BLOCK.format(layer=index)
            for number, names in enumerate(trials):
                here = [name for name in names if name.startswith(prefix)]
                if here or number in apart:
                    with _changed(block, {name.removeprefix(prefix): nearer(name) for name in here}):
                        apart[number] = _run(artifact, block, apart.get(number, plain))
            plain = _run(artifact, block, plain)
            progress.advance()
    finally:
        progress.stop()
    return [apart[number] for number in range(len(trials))]


def _run(walker: OpenWalker, block: nn.Module, hidden_WTH: torch.Tensor) -> torch.Tensor:
    return torch.cat([walker.forward(block, part) for part in torch.split(hidden_WTH, BATCH)])


@contextlib.contextmanager
def _changed(block: nn.Module, values: dict[str, torch.Tensor]) -> Iterator[None]:
    """The block with other weights for as long as it lasts."""
    kept = {name: block.get_parameter(name).data for name in values}
    try:
        for name, value in values.items():
            block.get_parameter(name).data = value
        yield
    finally:
        for name, value in kept.items():
            block.get_parameter(name).data = value
