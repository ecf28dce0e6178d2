"""Channels of the residual stream that are far louder than the others, heard while two models are walked.

They are why some layers lose more than others: a few columns carry most of the power, and rounding spends its levels on
them. Heard is the reference, from the second half of each window on, because the first token is loud in its own way.

Source: Dettmers et al. 2022, arXiv:2208.07339 §4 (outlier features).
"""

from __future__ import annotations

import torch

from bitwright.core.diagnosis import OutlierChannels
from bitwright.evaluation.lockstep import BlockWalker, first_scored

LOUD = 20.0  # root mean square over the median channel's
SHOWN = 8


class Listening:
    """A walker that notes loud channels after each block."""

    def __init__(self, walker: BlockWalker) -> None:
        self._walker = walker
        self.layers = walker.layers
        self.found: list[OutlierChannels] = []

    def embed(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._walker.embed(tokens)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._walker.logits(hidden)

    def run_block(self, index: int, hidden_WTH: torch.Tensor, *, batch: int = 4) -> torch.Tensor:
        """Walk on and listen."""
        result = self._walker.run_block(index, hidden_WTH, batch=batch)
        heard_H = result[:, first_scored(result.shape[1]) :].square().mean(dim=(0, 1)).sqrt()
        ratio_H = heard_H / heard_H.median().clamp_min(torch.finfo(torch.float32).tiny)
        loud = ratio_H.argsort(descending=True)[:SHOWN]
        loud = loud[ratio_H[loud] > LOUD]
        if len(loud):
            self.found.append(
                OutlierChannels(layer=index, channels=tuple(loud.tolist()), loudest=float(ratio_H[loud[0]]))
            )
        return result
