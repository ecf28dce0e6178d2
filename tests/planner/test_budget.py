"""The allocation keeps to its budget, wastes nothing, and comes near the best there is."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.errors import UsageError
from bitwright.planner.budget import Option, allocate

SIZES = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "Q8_0": 272}


def item(weight: float, scale: int) -> list[Option]:
    return [Option(type=kind, bytes=size * scale, cost=weight * 4.0 ** (-size / 32)) for kind, size in SIZES.items()]


items = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.builds(item, st.floats(1e-3, 1e3), st.integers(1, 20)),
    min_size=1,
    max_size=4,
)


@given(items, st.floats(0, 1))
def test_it_keeps_to_the_budget_and_spends_it(found: dict[str, list[Option]], share: float) -> None:
    least, most = (sum(size(option.bytes for option in options) for options in found.values()) for size in (min, max))
    budget = int(least + share * (most - least))
    chosen = allocate(found, budget)
    left = budget - sum(option.bytes for option in chosen.values())
    assert left >= 0
    for name, options in found.items():  # no single exchange is left that would fit
        assert not any(0 < option.bytes - chosen[name].bytes <= left for option in options)


@given(items, st.floats(0, 1))
def test_it_is_near_the_best_there_is(found: dict[str, list[Option]], share: float) -> None:
    least, most = (sum(size(option.bytes for option in options) for options in found.values()) for size in (min, max))
    budget = int(least + share * (most - least))
    cost = sum(option.cost for option in allocate(found, budget).values())
    sets = itertools.product(*found.values())
    best = min(sum(o.cost for o in options) for options in sets if sum(o.bytes for o in options) <= budget)
    # what a Lagrangian may lose is at most one exchange of one item, whose costs here fall by 4 per 32 bytes
    assert cost <= 5 * best + 1e-9


def test_more_bytes_never_cost_more() -> None:
    found = {"a": item(1, 3), "b": item(5, 1), "c": item(0.2, 9)}
    costs = [sum(option.cost for option in allocate(found, budget).values()) for budget in range(1100, 3600, 50)]
    assert costs[0] / costs[-1] > 50
    assert all(after <= before * 1.5 for before, after in itertools.pairwise(costs))


def test_a_type_that_is_larger_and_worse_is_never_taken() -> None:
    found = {"a": [Option(type="good", bytes=10, cost=1), Option(type="bad", bytes=20, cost=2)]}
    assert allocate(found, 100)["a"].type == "good"


def test_too_small_a_budget_is_refused() -> None:
    with pytest.raises(UsageError, match="the smallest types take"):
        allocate({"a": item(1, 1)}, 10)
