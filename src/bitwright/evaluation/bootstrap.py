"""Intervals of quantiles: whole windows drawn again and again, the quantile of every draw, its percentiles.

Student's t needs a mean; a quantile is none, and the tokens beside it come in windows. Of a draw only matters how often
it holds each window, so tokens are sorted once and every draw is a running sum of counts over the sorted tokens.

The percentile interval is at its worst where few tokens lie beyond the quantile: its upper end cannot pass the largest
token seen. docs/reference/validation.md says from how many windows on which quantile is to be trusted.

Source: Davison & Hinkley, Bootstrap Methods and their Application, ch. 3.8 (clusters), 5.3 (percentile intervals).
Dimension key: W windows · P scored tokens of a window · Q quantiles. Not here: means (stats.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bitwright.core.records import Estimate
from bitwright.evaluation.stats import CONFIDENCE

Floats = NDArray[np.float64]

DRAWS = 1000  # ten of them lie beyond either end of a 98 % interval
SEED = 20261121


def quantile_intervals(
    values_WP: Floats, shares_Q: Sequence[float], *, confidence: float = CONFIDENCE, draws: int = DRAWS
) -> list[Estimate]:
    """The quantiles of all tokens at `shares_Q`, each with a percentile interval. The same values give the same
    intervals.
    """
    windows, tokens = values_WP.shape
    flat = values_WP.ravel()
    order = np.argsort(flat, kind="stable")
    ordered, window_of = flat[order], order // tokens
    targets = np.array([max(share * flat.size, 1e-9) for share in shares_Q])
    generator = np.random.default_rng(SEED)
    found = np.empty((draws, len(shares_Q)))
    for draw in range(draws):
        counts = np.bincount(generator.integers(0, windows, size=windows), minlength=windows)
        passed = np.cumsum(counts[window_of])
        found[draw] = ordered[np.searchsorted(passed, targets)]
    lows, highs = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    values = np.quantile(flat, shares_Q)
    return [
        Estimate(value=float(value), low=float(min(low, value)), high=float(max(high, value)))
        for value, low, high in zip(values, lows, highs, strict=True)
    ]
