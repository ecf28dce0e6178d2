"""Shares and their differences on the same items, against textbook values and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.behaviour import TaskResult
from bitwright.core.records import Estimate
from bitwright.evaluation import paired
from bitwright.evaluation.behaviour import task_gates, task_notes
from bitwright.facts.behaviour import behaviour_limits
from bitwright.facts.thresholds import thresholds

counts = st.integers(0, 60)


def result(**fields: object) -> TaskResult:
    blank = {
        "task": "t", "metric": "acc", "filter": "none", "items": 100, "higher_is_better": True,
        "reference": Estimate(value=0.7, low=0.6, high=0.8), "artifact": Estimate(value=0.7, low=0.6, high=0.8),
    }  # fmt: skip
    return TaskResult(**(blank | fields))


def test_a_share_has_wilsons_interval() -> None:
    estimate = paired.share(81, 263)  # Newcombe 1998, Stat. Med. 17:857, table I, method 3
    assert (round(estimate.low, 4), round(estimate.high, 4)) == (0.2553, 0.3662)
    assert paired.share(0, 20).low == 0
    assert 0.16 < paired.share(0, 20).high < 0.17


def test_mcnemar_is_the_binomial_tail() -> None:
    assert paired.mcnemar(0, 0) == 1
    assert paired.mcnemar(8, 0) == pytest.approx(2 / 256)
    assert paired.mcnemar(3, 3) == 1


@given(counts, counts, st.integers(120, 400))
def test_a_drop_turns_sign_when_the_models_change_places(lost: int, won: int, total: int) -> None:
    here, there = paired.share_drop(lost, won, total), paired.share_drop(won, lost, total)
    assert here.value == -there.value
    assert here.low == pytest.approx(-there.high)
    assert here.low <= here.value <= here.high


def test_no_flip_among_few_items_is_no_proof() -> None:
    assert paired.share_drop(0, 0, 100).high == pytest.approx(0.0192, abs=1e-4)
    assert paired.share_drop(0, 0, 10).high > 0.15


def test_the_interval_of_a_drop_holds_the_truth_often_enough() -> None:
    random, held = np.random.default_rng(0), 0
    truth = 0.06 - 0.02
    for lost, won, _ in random.multinomial(100, [0.06, 0.02, 0.92], size=2000):
        estimate = paired.share_drop(int(lost), int(won), 100)
        held += estimate.low <= truth <= estimate.high
    assert 0.93 < held / 2000 < 0.985


def test_right_and_wrong_answers_are_compared_item_by_item() -> None:
    here, there = np.array([1.0, 1, 1, 0, 0, 1]), np.array([1.0, 0, 0, 1, 0, 1])
    found = paired.compare(result(items=6), here, there)
    assert (found.lost, found.won) == (2, 1)
    assert found.flips is not None
    assert found.flips.value == 0.5
    assert found.drop is not None
    assert found.drop.value == pytest.approx(1 / 6)
    fewer_is_better = paired.compare(result(items=6, higher_is_better=False), here, there)
    assert fewer_is_better.drop is not None
    assert fewer_is_better.drop.value == pytest.approx(-1 / 6)


def test_scores_that_are_no_verdicts_have_a_drop_and_no_flips() -> None:
    found = paired.compare(result(), np.array([0.5, 0.25, 1.0]), np.array([0.25, 0.25, 0.75]))
    assert found.flips is None
    assert found.mcnemar_p is None
    assert found.drop is not None
    assert found.drop.value == pytest.approx(1 / 6)


def test_gates_pass_fail_and_say_how_many_items_would_decide() -> None:
    limits = behaviour_limits(thresholds("chat"))

    def verdicts(lost: int, won: int, items: int) -> tuple[list[str], list[str]]:
        here, there = np.ones(items), np.ones(items)
        there[:lost] = 0
        here[lost : lost + won] = 0
        found = [paired.compare(result(items=items), here, there)]
        gates = task_gates(found, limits)
        return [gate.verdict for gate in gates], task_notes(found, gates)

    assert verdicts(1, 1, 200) == (["PASS", "PASS"], [])
    failed, notes = verdicts(60, 5, 200)
    assert failed == ["FAIL", "FAIL"]
    assert "60 answers were lost and 5 won" in notes[0]
    unsure, notes = verdicts(4, 2, 60)
    assert unsure == ["INCONCLUSIVE", "INCONCLUSIVE"]
    assert "would decide it" in notes[0]


def test_only_the_first_metric_of_a_task_is_a_gate() -> None:
    both = [
        paired.compare(result(metric=metric), np.ones(100), np.ones(100)) for metric in ("acc", "acc_norm")
    ]  # fmt: skip
    assert [gate.measure for gate in task_gates(both, behaviour_limits(thresholds("chat")))] == [
        "task_drop",
        "task_flips",
    ]
