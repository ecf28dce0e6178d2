"""Error bars that respect windows.

Tokens of one window share a context, so their losses move together; an interval that treats tokens as independent is
several times too narrow. Here the window is the unit: every window holds equally many scored tokens, so the mean of the
window means is the mean over tokens, and its spread over windows gives a Student-t interval. Perplexity is an
exponential of a mean, and its change a difference of two of them on the same windows (paired): both get the
delete-one-window jackknife.

Sums run through `math.fsum`, which is correctly rounded: the order of windows cannot change a figure.
Not here: which figure is held against which limit (verdict.py).
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


def mean_interval(window_means: Floats, *, floor: float = -math.inf, ceiling: float = math.inf) -> Estimate:
    """Mean over windows [W] with its two-sided 95 % t interval, cut at the bounds that the measure has by nature."""
    count = _count(window_means)
    mean = math.fsum(window_means) / count
    variance = math.fsum((window_means - mean) ** 2) / (count - 1)
    return _interval(mean, math.sqrt(variance / count), count, floor=floor, ceiling=ceiling)


def jackknife(columns_WK: Floats, statistic: Callable[[Floats], Floats], *, floor: float = -math.inf) -> Estimate:
    """`statistic` of the column means, with a delete-one-window interval.

    `columns_WK` holds K figures of W windows; `statistic` maps means [..., K] to values [...].
    """
    count = _count(columns_WK)
    totals_K = np.array([math.fsum(column) for column in columns_WK.T])
    value = float(statistic(totals_K / count))
    left_out_W = statistic((totals_K - columns_WK) / (count - 1))
    centre = math.fsum(left_out_W) / count
    variance = math.fsum((left_out_W - centre) ** 2) * (count - 1) / count
    return _interval(value, math.sqrt(variance), count, floor=floor)


def perplexity(nll_W: Floats) -> Estimate:
    """exp of the mean loss, from the mean losses of windows, in nats per token."""
    return jackknife(nll_W[:, None], lambda means: _exp(means[..., 0]), floor=1.0)


def perplexity_delta(nll_reference_W: Floats, nll_artifact_W: Floats) -> Estimate:
    """Perplexity of the artifact minus that of the reference, paired by window."""
    pairs_W2 = np.stack([nll_artifact_W, nll_reference_W], axis=1)
    return jackknife(pairs_W2, lambda means: _exp(means[..., 0]) - _exp(means[..., 1]))


def windows_to_decide(estimate: Estimate, *, limit: float, windows: int) -> int | None:
    """About how many windows would bring the limit out of the interval; None when the estimate lies on the limit.

    The half width shrinks with the square root of the count.
    """
    distance = abs(limit - estimate.value)
    half_width = max(estimate.high - estimate.value, estimate.value - estimate.low)
    if distance < half_width / 100:
        return None
    return math.ceil(windows * (half_width / distance) ** 2) + 1


def _count(windows: Floats) -> int:
    count = len(windows)
    assert count >= MIN_WINDOWS, f"{count} windows have no spread"
    return count


def _interval(
    value: float, error: float, count: int, *, floor: float = -math.inf, ceiling: float = math.inf
) -> Estimate:
    half_width = float(stdtrit(count - 1, 0.5 + CONFIDENCE / 2)) * error
    low, high = max(floor, value - half_width), min(ceiling, value + half_width)
    return Estimate(value=value, low=min(low, value), high=max(high, value))


def _exp(nll: Floats) -> Floats:
    result: Floats = np.exp(np.minimum(nll, MAX_NLL))
    return result
