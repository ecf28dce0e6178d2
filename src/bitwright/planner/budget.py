"""Which type for which tensor under a byte budget: the least predicted loss that the bytes allow.

Each item offers options of (bytes, cost). For a price λ per byte every item takes the option of least cost + λ · bytes;
a bisection finds the cheapest λ that keeps to the budget, and what is left is spent greedily on the best exchange. The
Lagrangian part meets the lower convex hull of the trade-off, and the greedy part fills the gap to the next point.

Not here: where costs come from (pipeline/costs.py).
Source: Shoham and Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from bitwright.core.errors import UsageError
from bitwright.core.units import format_bytes

BISECTIONS = 100


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One type that an item may take. `cost` is a predicted rise of the loss, in nats over all calibration tokens."""

    type: str
    bytes: int
    cost: float


def allocate(items: Mapping[str, Sequence[Option]], budget: int) -> dict[str, Option]:
    """Item → option with Σ bytes ≤ `budget` and the least Σ cost that was found.

    Raises `UsageError` when even the smallest options do not fit.
    """
    useful = {name: _undominated(options) for name, options in items.items()}
    smallest = sum(options[0].bytes for options in useful.values())
    if smallest > budget:
        raise UsageError(
            f"the smallest types take {format_bytes(smallest)}, the budget is {format_bytes(budget)}",
            hint="ask for a larger --target-size",
        )
    low, high = 0.0, 1.0
    while _bytes(_at_price(useful, high)) > budget:
        high *= 4
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if _bytes(_at_price(useful, middle)) > budget:
            low = middle
        else:
            high = middle
    chosen = _at_price(useful, high)
    _spend(chosen, useful, budget - _bytes(chosen))
    return chosen


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Options by rising bytes, each with less cost than all smaller ones."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.bytes, option.cost)):
        if not kept or option.cost < kept[-1].cost:
            kept.append(option)
    return kept


def _at_price(items: Mapping[str, list[Option]], price: float) -> dict[str, Option]:
    return {
        name: min(options, key=lambda option: (option.cost + price * option.bytes, option.bytes))
        for name, options in items.items()
    }


def _bytes(chosen: Mapping[str, Option]) -> int:
    return sum(option.bytes for option in chosen.values())


def _spend(chosen: dict[str, Option], items: Mapping[str, list[Option]], left: int) -> None:
    """Exchange options for larger ones, most gain per byte first, while bytes are left."""
    while True:
        best: tuple[float, str, Option] | None = None
        for name, options in items.items():
            now = chosen[name]
            for option in options:
                more = option.bytes - now.bytes
                if 0 < more <= left:
                    gain = (now.cost - option.cost) / more
                    if best is None or gain > best[0]:
                        best = gain, name, option
        if best is None:
            return
        _, name, option = best
        left -= option.bytes - chosen[name].bytes
        chosen[name] = option
