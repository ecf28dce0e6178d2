"""Artifacts of one model against each other, on the windows that all of them saw.

Two means whose intervals overlap may still differ: both artifacts find the same windows hard, so their errors move
together, and the difference on each window varies much less than either figure. Here the differences are what is
averaged. Each window counts once, whatever its text; Student's t over windows gives the interval. With n pairs each
interval is taken at 1 - 0.05/n (Bonferroni), so that all of them hold together with 95 %.

Two artifacts are told apart when the interval of their difference leaves out zero, and when at least one of them
departs by more than bfloat16 arithmetic makes the original itself depart: below that floor a KL can be measured and
means nothing (arXiv 2606.19558: no order of nearly lossless artifacts by KL follows their results in use).
A group is the closest artifact that is left, and those that cannot be told from it.

Not here: the figures of one artifact (score.py), the sentences (api/comparison.py).
Source: Dunn, Multiple Comparisons Among Means, 1961.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from bitwright.core.comparison import Pairing
from bitwright.evaluation import stats

ERROR = 0.05  # of all pairs together
BELOW_FLOOR = "both depart by less than bfloat16 arithmetic makes the original depart"


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """Mean KL of each window, in nats per token, in the same order for every artifact."""

    name: str
    kl: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over all windows."""
        return float(np.mean(self.kl))


def in_order(samples: Sequence[Sample]) -> list[Sample]:
    """The closest to the original first."""
    return sorted(samples, key=lambda sample: sample.mean)


def confidence(count: int) -> float:
    """Of each pair's interval, for so many artifacts."""
    return 1 - ERROR / max(1, count * (count - 1) // 2)


def pairings(ordered: Sequence[Sample], *, floor: float = 0.0) -> list[Pairing]:
    """Every pair, the closer one first. `floor`: mean KL of the original in bfloat16, in nats."""
    level = confidence(len(ordered))
    return [_pairing(closer, other, level, floor) for closer, other in itertools.combinations(ordered, 2)]


def groups(ordered: Sequence[Sample], pairs: Sequence[Pairing]) -> list[int]:
    """The group of each, from 1."""
    apart = {(pair.closer, pair.other): pair.told_apart for pair in pairs}
    found: list[int] = []
    first = ""
    for sample in ordered:
        if not found or apart[first, sample.name]:
            first = sample.name
            found.append(len(set(found)) + 1)
        else:
            found.append(found[-1])
    return found


def _pairing(closer: Sample, other: Sample, level: float, floor: float) -> Pairing:
    differences = np.subtract(other.kl, closer.kl)
    difference = stats.mean_interval(differences, confidence=level)
    apart = difference.low > 0
    below = max(closer.mean, other.mean) < floor
    return Pairing(
        closer=closer.name, other=other.name, difference=difference, told_apart=apart and not below,
        reason=BELOW_FLOOR if apart and below else "",
    )  # fmt: skip
