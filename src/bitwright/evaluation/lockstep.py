"""Two models side by side, one block of each at a time.

Memory holds the residual streams of both models and one block. After every block the streams are compared at the
scored positions, and a small fixed sample of positions goes through each model's own final norm and head ("logit
lens"), so that the layer where an artifact goes astray can be seen.

Why only scored positions: the first token of a window draws attention with activations thousands of times the usual
size; an error relative to those would hide everything else.

Dimension key: W windows, T positions, H hidden, P probed positions. Not here: the scores (score.py).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Protocol

import torch

from bitwright.core.protocols import Progress
from bitwright.core.records import LayerError
from bitwright.evaluation.divergence import compare

PROBES = 64  # positions of the logit lens: cheap beside a block, enough for a curve
SCORED_FROM = 0.5  # positions before half a window lack context; llama-perplexity scores from there too


class BlockWalker(Protocol):
    """What is asked of a model here; `modeling.walk.Walker` answers it."""

    layers: int

    def embed(self, tokens: torch.Tensor) -> torch.Tensor: ...
    def run_block(self, index: int, hidden_WTH: torch.Tensor, *, batch: int = 4) -> torch.Tensor: ...
    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Walked:
    """Residual streams [W, T, H] after the last block, and what was seen on the way."""

    reference: torch.Tensor
    artifact: torch.Tensor
    layers: tuple[LayerError, ...]


def first_scored(length: int) -> int:
    """First scored position of a window; the position predicts the token after it."""
    return math.ceil(length * SCORED_FROM)


def walk_together(
    reference: BlockWalker, artifact: BlockWalker, tokens_WT: torch.Tensor, *, progress: Progress, batch: int = 4
) -> Walked:
    """Run int64 tokens [W, T] through both models."""
    probes_P = _probes(tokens_WT)
    here_WTH, there_WTH = reference.embed(tokens_WT), artifact.embed(tokens_WT)
    layers = [LayerError(layer=-1, activation_error=_relative_error(here_WTH, there_WTH))]
    progress.start("comparing blocks", reference.layers, "blocks")
    try:
        for index in range(reference.layers):
            here_WTH = reference.run_block(index, here_WTH, batch=batch)
            there_WTH = artifact.run_block(index, there_WTH, batch=batch)
            layers.append(
                LayerError(
                    layer=index,
                    activation_error=_relative_error(here_WTH, there_WTH),
                    kl=_lens(reference, artifact, here_WTH.flatten(0, 1)[probes_P], there_WTH.flatten(0, 1)[probes_P]),
                )
            )
            progress.advance()
    finally:
        progress.stop()
    return Walked(reference=here_WTH, artifact=there_WTH, layers=tuple(layers))


def walk_alone(model: BlockWalker, tokens_WT: torch.Tensor, *, progress: Progress, batch: int = 4) -> torch.Tensor:
    """The residual stream [W, T, H] after the last block of one model."""
    hidden_WTH = model.embed(tokens_WT)
    progress.start("running blocks", model.layers, "blocks")
    try:
        for index in range(model.layers):
            hidden_WTH = model.run_block(index, hidden_WTH, batch=batch)
            progress.advance()
    finally:
        progress.stop()
    return hidden_WTH


def _probes(tokens_WT: torch.Tensor) -> torch.Tensor:
    """Flat indices of probed positions, spread evenly over the scored ones of all windows."""
    windows, length = tokens_WT.shape
    flat = torch.arange(windows * length).view(windows, length)[:, first_scored(length) : length - 1].flatten()
    count = min(PROBES, len(flat))
    return flat[torch.arange(count) * len(flat) // count]


def _lens(reference: BlockWalker, artifact: BlockWalker, here_PH: torch.Tensor, there_PH: torch.Tensor) -> float | None:
    no_target = torch.zeros(len(here_PH), dtype=torch.int64)
    kl = float(compare(reference.logits(here_PH), artifact.logits(there_PH), no_target).kl.mean())
    return kl if math.isfinite(kl) else None


def _relative_error(here_WTH: torch.Tensor, there_WTH: torch.Tensor) -> float | None:
    """Σ (artifact - reference)² / Σ reference² over scored positions. Window by window, to need no third stream."""
    start = first_scored(here_WTH.shape[1])
    error = power = 0.0
    for here_TH, there_TH in zip(here_WTH[:, start:], there_WTH[:, start:], strict=True):
        error += float((there_TH - here_TH).double().square().sum())
        power += float(here_TH.double().square().sum())
    ratio = error / power if power else 0.0
    return ratio if math.isfinite(ratio) else None
