"""Intervals of quantiles from the shares of tokens above them.

How many tokens of a window lie above a value is a mean over windows like any other, with Student's interval. Laid
around the share that ought to lie above, its two ends are shares whose quantiles are the interval's ends. Where fewer
tokens lie above than the error of their share, nothing that was seen bounds the quantile: its upper end is then
`UNBOUNDED`, which no limit passes.

Why not a bootstrap over windows: its upper end cannot pass the largest token seen, so that it held a p99.9 in 33 to
89 % of draws where it promised 95 (docs/log.md, 2026-11-22).

Source: Woodruff, Confidence intervals for medians and other position measures, J. Am. Stat. Assoc. 47 (1952), 635-646.
Dimension key: W windows · P scored tokens of a window. Not here: means (stats.py).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitwright.core.records import Estimate, Quantile
from bitwright.evaluation.stats import CONFIDENCE, UNBOUNDED, mean_interval

Floats = NDArray[np.float64]


def quantile(values_WP: Floats, share: float, *, confidence: float = CONFIDENCE) -> Quantile:
    """What `share` of all tokens do not exceed, with its interval."""
    value = float(np.quantile(values_WP, share))
    above = mean_interval((values_WP > value).mean(axis=1), confidence=confidence)
    most, fewest = 1 - share + (above.high - above.value), 1 - share - (above.value - above.low)
    low = float(np.quantile(values_WP, max(0.0, 1 - most)))
    all_alike = above.value == 0 and value == float(values_WP.min())
    bounded = all_alike or (above.value > 0 and fewest * values_WP.size >= 1)
    high = float(np.quantile(values_WP, 1 - fewest)) if bounded else UNBOUNDED
    return Quantile(share=share, kl=Estimate(value=value, low=min(low, value), high=max(high, value)), bounded=bounded)
