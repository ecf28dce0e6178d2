"""When to look, and how sure to be at each look, so that looking often does not make errors frequent.

Windows are doubled from look to look until every gate is decided. Whoever holds a 95 % interval against a limit again
and again will at some time find it on the wrong side: with six looks that double not in 5 but in 20 % of texts. So the
5 % are spent in equal parts over the planned looks, each with intervals of 1 - 0.05/K. By the union bound all K hold at
once with 95 %, whatever depends on what, and a gate is decided wrongly on either side with 2.5 % at most. Looks that a
budget cuts off leave their part unspent.

Why not a narrower boundary (Pocock's): it gains 3 % of the width over equal parts at six doublings, from joint
normality of the looks, which skewed means of few windows have not. Why not a confidence sequence
for any number of looks (Waudby-Smith et al., arXiv:2103.06476): valid at all times, it is wider at each of a few.

Source: Lan and DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70 (1983), 659-663 (spending).
Not here: intervals (stats.py, quantiles.py), limits (verdict.py).
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.records import Gate
from bitwright.evaluation.stats import CONFIDENCE

FEWEST_MORE = 4  # windows that are worth a look

More = Callable[[int, int, int], TokenWindows | None]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """`looks`: windows of each text in all, at every look. `more(text, start, stop)` gives windows [start, stop) of a
    text, fewer or none at its end. No look is begun that would end after `budget_seconds`.
    """

    looks: tuple[int, ...]
    more: More
    budget_seconds: float = math.inf

    @property
    def confidence(self) -> float:
        """Of the intervals of each look."""
        return 1 - (1 - CONFIDENCE) / len(self.looks)


def doubling(first: int, most: int) -> tuple[int, ...]:
    """Windows at each look: twice as many each time, the last time `most`."""
    looks = [first]
    while looks[-1] < most:
        looks.append(min(2 * looks[-1], most))
    return tuple(looks)


def undecided(gates: Sequence[Gate]) -> set[str]:
    """Texts that have a gate to decide."""
    return {gate.text for gate in gates if gate.verdict == "INCONCLUSIVE"}


def affordable(wanted: int, texts: int, measured: int, started: float, budget_seconds: float) -> int:
    """Windows of each of `texts` that the rest of the budget pays for, at the pace of the `measured` windows so far."""
    elapsed = time.monotonic() - started
    if math.isinf(budget_seconds) or not measured:
        return wanted
    return min(wanted, int((budget_seconds - elapsed) / (elapsed / measured) / texts))
