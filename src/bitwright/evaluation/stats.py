"""Error bars that respect windows.

Tokens of one window share a context, so their losses move together; an interval that treats tokens as independent is
several times too narrow. Here the window is the unit: every window holds equally many scored tokens, so the mean of the
window means is the mean over tokens, and its spread gives a Student-t interval. The logarithm of a ratio of
perplexities on the same windows (paired) is such a mean. Means of what is never negative and skewed (KL, squares) get
Hall's interval, which knows of the skew. Perplexities, their difference and a mean over tokens of which windows hold
unequally many get the delete-one-window jackknife.

Sums run through `math.fsum`, which is correctly rounded: the order of windows cannot change a figure.
Not here: quantiles (quantiles.py); which figure is held against which limit (verdict.py).
Sources: Cochran, Sampling Techniques, ch. 9 (clusters); Efron & Tibshirani, An Introduction to the Bootstrap, ch. 11;
Hall, On the removal of skewness by transformation, J. R. Stat. Soc. B 54 (1992), 221-228.
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
LOG_NORMAL_SKEWNESS = 3.0  # times the relative spread: what a log-normal figure has at least
NO_SKEWNESS = 1e-6  # below, the transformation changes nothing but rounding
UNBOUNDED = 100.0  # nats; stands for an upper end that the windows do not give, and that JSON could not carry
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
    """Mean over windows [W] of a figure that is never negative and skewed upwards, as KL is: Hall's transformation of
    Student's t, with the skewness of the windows or that of a log-normal figure of their spread, whichever is larger.

    Few windows rarely hold the rare large one, so their own skewness is too small nearly always, and every interval
    that only listens to them ends too low (docs/log.md, 2026-11-22, has six beside this one). The upper end is never
    below Student's: Hall's cubic grows slower than t where windows are very few.
    """
    count = _count(window_means)
    mean = math.fsum(window_means) / count
    spread = math.sqrt(math.fsum((window_means - mean) ** 2) / (count - 1))
    if mean <= 0 or spread == 0:
        return Estimate(value=mean, low=mean, high=mean)
    skewness = max(_skewness((window_means - mean) / spread), LOG_NORMAL_SKEWNESS * spread / mean)
    t, error = _student(count, confidence), spread / math.sqrt(count)
    low = mean - _inverse_hall(t, skewness, count) * error
    high = mean - _inverse_hall(-t, skewness, count) * error
    return Estimate(value=mean, low=max(0.0, low), high=max(high, mean + t * error))


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
    mean = positive_mean(squares_W, confidence=confidence)
    return Estimate(value=math.sqrt(mean.value), low=math.sqrt(mean.low), high=math.sqrt(mean.high))


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

    The half width shrinks with the square root of the count; what nothing bounds yet is asked again at twice the count.
    """
    if estimate.high == UNBOUNDED > estimate.value:
        return 2 * windows
    distance = abs(limit - estimate.value)
    half_width = estimate.high - estimate.value if limit > estimate.value else estimate.value - estimate.low
    if distance < half_width / 100:
        return None
    return math.ceil(windows * (half_width / distance) ** 2) + 1


def _count(windows: Floats) -> int:
    count = len(windows)
    assert count >= MIN_WINDOWS, f"{count} windows have no spread"
    return count


def _skewness(deviations: Floats) -> float:
    """From deviations in units of the spread, without its largest bias; 0 from two, which have none."""
    count = len(deviations)
    return 0.0 if count < 3 else math.fsum(deviations**3) * count / ((count - 1) * (count - 2))


def _inverse_hall(t: float, skewness: float, count: int) -> float:
    """The studentized mean whose transformation is t: Hall's cubic is monotone, so it has one everywhere."""
    slope, shift, root = skewness / 3, skewness / 6, math.sqrt(count)
    if abs(slope) < NO_SKEWNESS:
        return t
    return (math.cbrt(1 + 3 * slope * (t - shift / root) / root) - 1) * root / slope


def _student(count: int, confidence: float) -> float:
    return float(stdtrit(count - 1, 0.5 + confidence / 2))


def _interval(value: float, error: float, count: int, *, floor: float, ceiling: float, confidence: float) -> Estimate:
    half_width = _student(count, confidence) * error
    low, high = max(floor, value - half_width), min(ceiling, value + half_width)
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _exp(nll: Floats) -> Floats:
    result: Floats = np.exp(np.minimum(nll, MAX_NLL))
    return result
