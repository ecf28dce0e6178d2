"""Artifacts are told apart by their differences on the same windows."""

from __future__ import annotations

import numpy as np
import pytest

from bitwright.evaluation.ordering import BELOW_FLOOR, Sample, confidence, groups, in_order, pairings


def sample(name: str, kl: object) -> Sample:
    return Sample(name, tuple(float(value) for value in np.asarray(kl)))


HARD = np.random.default_rng(0).gamma(2.0, 0.02, size=24)  # windows that are hard for every artifact


def test_a_small_difference_on_every_window_is_seen_where_the_intervals_overlap() -> None:
    noise = np.random.default_rng(1).normal(0, 1e-4, size=24)
    ordered = in_order([sample("b", HARD + 0.001 + noise), sample("a", HARD)])
    assert [one.name for one in ordered] == ["a", "b"]
    assert HARD.std() > 0.02  # each figure by itself is twenty times less certain than the difference
    (pair,) = pairings(ordered)
    assert pair.told_apart
    assert pair.difference.low < 0.001 < pair.difference.high
    assert groups(ordered, [pair]) == [1, 2]


def test_chance_does_not_tell_apart() -> None:
    noise = np.random.default_rng(2).normal(0, 0.002, size=24)
    ordered = in_order([sample("a", HARD), sample("b", HARD + noise)])
    (pair,) = pairings(ordered)
    assert not pair.told_apart
    assert groups(ordered, [pair]) == [1, 1]


def test_below_the_floor_nothing_is_told_apart() -> None:
    ordered = in_order([sample("a", HARD / 1000), sample("b", HARD / 500)])
    assert pairings(ordered)[0].told_apart
    (pair,) = pairings(ordered, floor=0.001)
    assert (pair.told_apart, pair.reason) == (False, BELOW_FLOOR)
    assert pairings([ordered[0], sample("c", HARD)], floor=0.001)[0].told_apart


def test_groups_begin_with_the_first_that_differs_from_the_leader() -> None:
    wide = np.random.default_rng(3).normal(0, 0.01, size=24)
    ordered = in_order([sample("a", HARD), sample("b", HARD + wide), sample("c", HARD + 0.1), sample("d", HARD + 0.1)])
    assert groups(ordered, pairings(ordered)) == [1, 1, 2, 2]


def test_all_intervals_hold_together() -> None:
    """Six equal artifacts have fifteen pairs; in at most one of twenty trials may any be told apart."""
    generator = np.random.default_rng(4)
    wrong = 0
    for _ in range(200):
        hard = generator.gamma(2.0, 0.02, size=24)
        equal = in_order([sample(name, hard * generator.lognormal(0, 0.1, size=24)) for name in "abcdef"])
        wrong += any(pair.told_apart for pair in pairings(equal))
    assert wrong <= 20  # 10 are expected at most; 20 would come once in a thousand times


@pytest.mark.parametrize(("count", "level"), [(2, 0.95), (3, 1 - 0.05 / 3), (6, 1 - 0.05 / 15)])
def test_more_pairs_need_more_certainty(count: int, level: float) -> None:
    assert confidence(count) == pytest.approx(level)
