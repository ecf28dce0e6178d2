"""The figures of one text from the measures of its tokens.

Means, shares and perplexities carry intervals clustered by window (stats.py), quantiles those of the shares of tokens
above them (quantiles.py). Windows in which the artifact gave no numbers are left out here and fail a gate of their own.

Dimension key: W windows · P measured positions per window. Not here: which token gets which measure (score.py).
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numpy.typing import NDArray

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.records import ConfidenceBin, Estimate, PositionBin, TextResult
from bitwright.evaluation import stats
from bitwright.evaluation.quantiles import quantile
from bitwright.evaluation.score import EARLY_STRIDE, Scores
from bitwright.evaluation.stats import CONFIDENCE

Floats = NDArray[np.float64]

POSITION_BINS = 16
SHARES = (0.5, 0.9, 0.99, 0.999)
CONFIDENCE_EDGES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


def text_result(text: TokenWindows, scores: Scores, *, confidence: float = CONFIDENCE) -> TextResult | None:
    """The figures of one text over its sound windows, with intervals of `confidence`; None when fewer than two are
    left.
    """
    sound = scores.sound
    if sound.sum() < stats.MIN_WINDOWS:
        return None
    measures, scored = scores.measures, scores.scored
    kl_all = measures.kl[sound]
    kl = kl_all[:, scored]
    nll_reference, nll_artifact = measures.nll_reference[sound][:, scored], measures.nll_artifact[sound][:, scored]
    losses = nll_reference.mean(axis=1), nll_artifact.mean(axis=1)
    same_top = (measures.top_reference == measures.top_artifact)[sound][:, scored].astype(np.float64)
    change = np.exp(-nll_artifact) - np.exp(-nll_reference)
    quantiles = tuple(quantile(kl, at, confidence=confidence) for at in SHARES)
    share = functools.partial(stats.mean_interval, floor=0.0, ceiling=1.0, confidence=confidence)
    return TextResult(
        name=text.name,
        sha256=text.sha256,
        windows=int(sound.sum()),
        length=text.tokens.shape[1],
        scored_tokens=kl.size,
        perplexity_reference=stats.perplexity(losses[0], confidence=confidence),
        perplexity_artifact=stats.perplexity(losses[1], confidence=confidence),
        perplexity_delta=stats.perplexity_delta(*losses, confidence=confidence),
        perplexity_ratio=stats.perplexity_ratio(*losses, confidence=confidence),
        kl_mean=stats.positive_mean(kl.mean(axis=1), confidence=confidence),
        kl_median=quantiles[0].kl.value,
        kl_p99=quantiles[2].kl.value,
        kl_max=float(kl.max()),
        kl_quantiles=quantiles,
        top1_agreement=share(same_top.mean(axis=1)),
        top5_agreement=share(measures.top5_shared[sound][:, scored].mean(axis=1)),
        rms_probability_change=stats.root_mean_square(np.square(change).mean(axis=1), confidence=confidence),
        by_position=_by_position(kl_all, scores.positions, text.tokens.shape[1], confidence),
        by_confidence=_by_confidence(kl, same_top, measures.confidence[sound][:, scored], confidence),
        window_kl=tuple(kl.mean(axis=1).tolist()),
        cache_error=_cache_error(scores),
    )


def _cache_error(scores: Scores) -> float | None:
    """Of the mean KL: the root of the summed variances of its tokens, over their number."""
    if scores.kl_variance is None:
        return None
    variance = scores.kl_variance[scores.sound][:, scores.scored]
    return float(np.sqrt(variance.sum()) / variance.size)


def flips(result: TextResult) -> Estimate:
    """The share of tokens whose most probable token is another one."""
    same = result.top1_agreement
    return Estimate(value=1 - same.value, low=1 - same.high, high=1 - same.low)


def _by_position(
    kl_WP: Floats, positions_P: NDArray[np.int64], length: int, confidence: float
) -> tuple[PositionBin, ...]:
    bins = []
    edges = np.linspace(0, length - 1, min(POSITION_BINS, length // EARLY_STRIDE) + 1).astype(int)
    for start, stop in itertools.pairwise(edges):
        inside = (positions_P >= start) & (positions_P < stop)
        if inside.any():
            mean = stats.positive_mean(kl_WP[:, inside].mean(axis=1), confidence=confidence)
            bins.append(PositionBin(start=int(start), stop=int(stop), kl=mean.value, interval=mean))
    return tuple(bins)


def _by_confidence(
    kl_WP: Floats, same_top_WP: Floats, confidence_WP: Floats, confidence: float
) -> tuple[ConfidenceBin, ...]:
    """One bin for each pair of edges, the last with its upper edge."""
    bins = []
    for low, high in itertools.pairwise(CONFIDENCE_EDGES):
        inside = (confidence_WP >= low) & ((confidence_WP < high) | (high == CONFIDENCE_EDGES[-1]))
        bins.append(
            ConfidenceBin(
                low=low,
                high=high,
                tokens=int(inside.sum()),
                kl=stats.share_mean(kl_WP, inside, confidence=confidence),
                top1_agreement=stats.share_mean(same_top_WP, inside, ceiling=1.0, confidence=confidence),
            )
        )
    return tuple(bins)
