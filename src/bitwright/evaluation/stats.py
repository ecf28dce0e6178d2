"""Error bars that respect windows.

Tokens of one window share a context, so their losses move together; an interval that treats tokens as independent is
several times too narrow. Here the window is the unit: every window holds equally many scored tokens, so the mean of the
window means is the mean over tokens, and its spread over windows gives a Student-t interval; that of a mean KL, which
is skewed, is taken on its logarithm. The logarithm of a ratio of perplexities on the same windows (paired) is such a
mean. Perplexities, their difference, a root of a mean and a mean over tokens of which windows hold unequally many get
the delete-one-window jackknife.

Sums run through `math.fsum`, which is correctly rounded: the order of windows cannot change a figure.
Not here: quantiles (bootstrap.py); which figure is held against which limit (verdict.py).
Sources: Cochran, Sampling Techniques, ch. 9 (clusters); Efron & Tibshirani, An Introduction to the Bootstrap, ch. 11.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bitwright.core.records import Estimate

Floats = NDArray[np.float64]

CONFIDENCE = 0.95
MIN_WINDOWS = 2  # one window has no spread
MAX_NLL = 100.0  # exp(100) = 3e43: a ruined model stays a number that JSON can carry


def mean_interval(
    window_means: Floats, *, floor: float = -math.inf, ceiling: float = math.inf, confidence: float = CONFIDENCE
) -> Estimate:
    """Mean over windows [W] with its two-sided t interval, cut at the bounds that the measure has by nature."""
    count = _count(window_means)
    mean = math.fsum(window_means) / count
    variance = math.fsum((window_means - mean) ** 2) / (count - 1)
    return _interval(mean, math.sqrt(variance / count), count, floor=floor, ceiling=ceiling, confidence=confidence)


def positive_mean(window_means: Floats, *, confidence: float = CONFIDENCE) -> Estimate:
    """Mean over windows [W] of a figure that is never negative and skewed upwards, as KL is: the t interval of its
    logarithm, by the delta method.

    Of 320 windows of real KL with a skewness of 2, the plain t interval of 24 lay too low for 6.1 % of draws and the
    logarithm's for 5.0 %, at the same width; a bootstrap of studentized means did no better and was a fifth wider
    (docs/log.md, 2026-11-21).
    """
    plain = mean_interval(window_means, confidence=confidence)
    if plain.value <= 0:
        return Estimate(value=plain.value, low=plain.value, high=plain.value)
    factor = math.exp(min((plain.high - plain.value) / plain.value, MAX_NLL))
    return Estimate(value=plain.value, low=plain.value / factor, high=plain.value * factor)


def jackknife(
    columns_WK: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    floor: float = -math.inf,
    ceiling: float = math.inf,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """`statistic` of the column means, with a delete-one-window interval.

    `columns_WK` holds K figures of W windows; `statistic` maps means [..., K] to values [...].
    """
    count = _count(columns_WK)
    totals_K = np.array([math.fsum(column) for column in columns_WK.T])
    value = float(statistic(totals_K / count))
    left_out_W = statistic((totals_K - columns_WK) / (count - 1))
    centre = math.fsum(left_out_W) / count
    variance = math.fsum((left_out_W - centre) ** 2) * (count - 1) / count
    return _interval(value, math.sqrt(variance), count, floor=floor, ceiling=ceiling, confidence=confidence)


def perplexity(nll_W: Floats, *, confidence: float = CONFIDENCE) -> Estimate:
    """exp of the mean loss, from the mean losses of windows, in nats per token."""
    return jackknife(nll_W[:, None], lambda means: _exp(means[..., 0]), floor=1.0, confidence=confidence)


def perplexity_delta(nll_reference_W: Floats, nll_artifact_W: Floats, *, confidence: float = CONFIDENCE) -> Estimate:
    """Perplexity of the artifact minus that of the reference, paired by window."""
    pairs_W2 = np.stack([nll_artifact_W, nll_reference_W], axis=1)
    return jackknife(pairs_W2, lambda means: _exp(means[..., 0]) - _exp(means[..., 1]), confidence=confidence)


def perplexity_ratio(nll_reference_W: Floats, nll_artifact_W: Floats, *, confidence: float = CONFIDENCE) -> Estimate:
    """Perplexity of the artifact over that of the reference: the exponential of the mean difference of losses, whose
    interval is taken before the exponential, where it is symmetric.
    """
    change = mean_interval(nll_artifact_W - nll_reference_W, confidence=confidence)
    value, low, high = _exp(np.array([change.value, change.low, change.high]))
    return Estimate(value=float(value), low=float(low), high=float(high))


def root_mean_square(squares_W: Floats, *, confidence: float = CONFIDENCE) -> Estimate:
    """The root of a mean, from the means of squares in windows."""
    return jackknife(squares_W[:, None], lambda means: np.sqrt(means[..., 0]), floor=0.0, confidence=confidence)


def share_mean(
    values_WP: Floats, chosen_WP: NDArray[np.bool_], *, ceiling: float = math.inf, confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean of the chosen tokens, where windows hold different numbers of them; None when fewer than two hold any."""
    counts_W = chosen_WP.sum(axis=1).astype(np.float64)
    if (counts_W > 0).sum() < MIN_WINDOWS:
        return None
    columns_W2 = np.stack([np.where(chosen_WP, values_WP, 0.0).sum(axis=1), counts_W], axis=1)
    return jackknife(
        columns_W2, lambda means: means[..., 0] / means[..., 1], floor=0.0, ceiling=ceiling, confidence=confidence
    )


def windows_to_decide(estimate: Estimate, *, limit: float, windows: int) -> int | None:
    """About how many windows would bring the limit out of the interval; None when the estimate lies on the limit.

    The half width shrinks with the square root of the count.
    """
    distance = abs(limit - estimate.value)
    half_width = estimate.high - estimate.value if limit > estimate.value else estimate.value - estimate.low
    if distance < half_width / 100:
        return None
    return math.ceil(windows * (half_width / distance) ** 2) + 1


def _count(windows: Floats) -> int:
    count = len(windows)
    assert count >= MIN_WINDOWS, f"{count} windows have no spread"
    return count


def _interval(value: float, error: float, count: int, *, floor: float, ceiling: float, confidence: float) -> Estimate:
    half_width = float(stdtrit(count - 1, 0.5 + confidence / 2)) * error
    low, high = max(floor, value - half_width), min(ceiling, value + half_width)
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _exp(nll: Floats) -> Floats:
    result: Floats = np.exp(np.minimum(nll, MAX_NLL))
    return result
