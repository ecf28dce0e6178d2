"""Two models on the same items: how often they differ, and whether one is worse by more than a margin.

Items are independent of each other, so that intervals of shares need no clusters. A share alone has Wilson's interval;
the difference of two shares on the same items that of Agresti and Min, which half an item in each of the four cells
keeps honest where no answer changed: 100 items without a flip leave ±1.9 points, not ±0.

Whether an artifact is no worse by more than a margin is asked of that interval (a non-inferiority test at 2.5 %);
whether it differs at all, of the flips alone (McNemar's test, exact). The second finds differences that do not matter,
and misses those that too few items cannot show; gates are built on the first.

Sources: Wilson 1927, J. Am. Stat. Assoc. 22:209; Agresti & Min 2005, Stat. Med. 24:729; McNemar 1947, Psychometrika
12:153; flips beside accuracy: Dutta et al. 2024, arXiv:2407.09141.
"""

from __future__ import annotations

import math

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

from bitwright.core.behaviour import TaskResult
from bitwright.core.estimate import Estimate
from bitwright.evaluation.stats import CONFIDENCE, MIN_WINDOWS, mean_interval

Floats = NDArray[np.float64]
Z = float(ndtri(0.5 + CONFIDENCE / 2))
HALF = 0.5  # of an item, added to each of the four cells


def share(count: int, total: int) -> Estimate:
    """A share of independent items with Wilson's interval."""
    assert total > 0
    value, weight = count / total, Z**2 / total
    centre = (value + weight / 2) / (1 + weight)
    half_width = Z / (1 + weight) * math.sqrt(value * (1 - value) / total + weight / (4 * total))
    return Estimate(
        value=value, low=max(0.0, min(value, centre - half_width)), high=min(1.0, max(value, centre + half_width))
    )


def share_drop(lost: int, won: int, total: int) -> Estimate:
    """By how much a share falls: `lost` items of `total` were right only before, `won` only after."""
    assert total > 0
    value, padded = (lost - won) / total, total + 4 * HALF
    centre = (lost - won) / padded
    changed = (lost + won + 2 * HALF) / padded
    half_width = Z * math.sqrt(max(0.0, changed - centre**2) / padded)
    return Estimate(value=value, low=min(value, centre - half_width), high=max(value, centre + half_width))


def mcnemar(lost: int, won: int) -> float:
    """Two-sided exact p: how likely flips as lopsided as these are where both directions are equally likely."""
    return float(binomtest(lost, lost + won, 0.5).pvalue) if lost + won else 1.0


def is_binary(scores: Floats) -> bool:
    """Whether a metric says right or wrong, item by item."""
    return bool(np.isin(scores, (0.0, 1.0)).all())


def mean(scores: Floats) -> Estimate:
    """A metric over its items, in whatever unit."""
    if is_binary(scores):
        return share(int(scores.sum()), len(scores))
    if len(scores) < MIN_WINDOWS:
        return Estimate(value=float(scores.mean()), low=-math.inf, high=math.inf)
    return mean_interval(scores)


def compare(result: TaskResult, reference: Floats, artifact: Floats) -> TaskResult:
    """`result` with what the two models' scores of the same items say together."""
    if is_binary(reference) and is_binary(artifact):
        lost, won = int((reference > artifact).sum()), int((artifact > reference).sum())
        worse = (lost, won) if result.higher_is_better else (won, lost)
        return msgspec.structs.replace(
            result, lost=lost, won=won, flips=share(lost + won, len(reference)), mcnemar_p=mcnemar(lost, won),
            drop=share_drop(*worse, len(reference)),
        )  # fmt: skip
    if len(reference) < MIN_WINDOWS:
        return result
    fall = reference - artifact if result.higher_is_better else artifact - reference
    return msgspec.structs.replace(result, drop=mean_interval(fall))
