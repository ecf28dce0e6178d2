"""From final residual streams to figures of every measured token, then to the figures of a text.

Scored are the positions of the second half of each window: they have context, as tokens in use have. For the curve over
positions every fourth position of the first half is measured too; it enters no mean.
Logits of [tokens, vocabulary] exist only for a chunk of rows.

Dimension key: W windows, T positions, P measured positions per window, H hidden.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.errors import InputError
from bitwright.core.protocols import Progress
from bitwright.core.records import PositionBin, TextResult
from bitwright.evaluation import stats
from bitwright.evaluation.divergence import Measures, compare
from bitwright.evaluation.lockstep import BlockWalker, Walked, first_scored

EARLY_STRIDE = 4  # the first half costs a quarter of what the second does
POSITION_BINS = 16
CHUNK_BYTES = 48 * 1024**2  # one block of float32 logits; four of that size live at once


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Measures [W, P] at `positions` [P]; those from `first` on are scored."""

    measures: Measures
    positions: NDArray[np.int64]
    first: int

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which of the P positions count."""
        return self.positions >= self.first

    @property
    def sound(self) -> NDArray[np.bool_]:
        """Windows [W] in which the artifact gave finite numbers throughout."""
        result: NDArray[np.bool_] = np.all(self.measures.finite, axis=1)
        return result

    def windows(self, start: int, stop: int) -> Scores:
        """The scores of windows [start, stop)."""
        fields = {field.name: getattr(self.measures, field.name)[start:stop] for field in dataclasses.fields(Measures)}
        return dataclasses.replace(self, measures=Measures(**fields))


def score(
    reference: BlockWalker, artifact: BlockWalker, walked: Walked, tokens_WT: torch.Tensor, *, progress: Progress
) -> Scores:
    """Compute logits chunk by chunk and measure. Raises `InputError` when the reference itself is not finite."""
    windows, length = tokens_WT.shape
    first = first_scored(length)
    positions = torch.cat([torch.arange(0, first, EARLY_STRIDE), torch.arange(first, length - 1)])
    flat = (torch.arange(windows)[:, None] * length + positions).flatten()
    streams = walked.reference.flatten(0, 1), walked.artifact.flatten(0, 1)
    next_tokens = tokens_WT.flatten()[flat + 1]
    vocabulary = reference.logits(streams[0][:1]).shape[-1]
    chunk = max(1, CHUNK_BYTES // (4 * vocabulary))
    parts = []
    progress.start("comparing predictions", len(flat), "tokens")
    try:
        for start in range(0, len(flat), chunk):
            rows, targets = flat[start : start + chunk], next_tokens[start : start + chunk]
            parts.append(compare(reference.logits(streams[0][rows]), artifact.logits(streams[1][rows]), targets))
            progress.advance(len(rows))
    finally:
        progress.stop()
    measures = Measures(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in parts]).reshape(windows, len(positions))
            for field in dataclasses.fields(Measures)
        }
    )
    if not np.isfinite(measures.nll_reference).all():
        raise InputError(
            "the reference model gives logits that are not finite, expected numbers",
            hint="check the original checkpoint: nothing can be measured against it",
        )
    return Scores(measures=measures, positions=positions.numpy(), first=first)


def text_result(text: TokenWindows, scores: Scores) -> TextResult | None:
    """The figures of one text over its sound windows; None when fewer than two are left."""
    sound = scores.sound
    if sound.sum() < stats.MIN_WINDOWS:
        return None
    measures, scored = scores.measures, scores.scored
    kl = measures.kl[sound]
    nll_reference = measures.nll_reference[sound][:, scored].mean(axis=1)
    nll_artifact = measures.nll_artifact[sound][:, scored].mean(axis=1)
    agreement = (measures.top_reference == measures.top_artifact)[sound][:, scored]
    scored_kl = kl[:, scored]
    return TextResult(
        name=text.name,
        sha256=text.sha256,
        windows=int(sound.sum()),
        length=text.tokens.shape[1],
        scored_tokens=scored_kl.size,
        perplexity_reference=stats.perplexity(nll_reference),
        perplexity_artifact=stats.perplexity(nll_artifact),
        perplexity_delta=stats.perplexity_delta(nll_reference, nll_artifact),
        kl_mean=stats.mean_interval(scored_kl.mean(axis=1), floor=0.0),
        kl_median=float(np.quantile(scored_kl, 0.5)),
        kl_p99=float(np.quantile(scored_kl, 0.99)),
        kl_max=float(scored_kl.max()),
        top1_agreement=stats.mean_interval(agreement.mean(axis=1), floor=0.0, ceiling=1.0),
        by_position=_by_position(kl, scores.positions, text.tokens.shape[1]),
    )


def _by_position(kl_WP: NDArray[np.float64], positions_P: NDArray[np.int64], length: int) -> tuple[PositionBin, ...]:
    bins = []
    edges = np.linspace(0, length - 1, min(POSITION_BINS, length // EARLY_STRIDE) + 1).astype(int)
    for start, stop in itertools.pairwise(edges):
        inside = (positions_P >= start) & (positions_P < stop)
        if inside.any():
            bins.append(PositionBin(start=int(start), stop=int(stop), kl=float(kl_WP[:, inside].mean())))
    return tuple(bins)
