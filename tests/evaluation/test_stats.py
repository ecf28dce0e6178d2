import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bitwright.core.records import Estimate
from bitwright.evaluation.sampling import doubling
from bitwright.evaluation.stats import (
    jackknife,
    mean_interval,
    perplexity,
    perplexity_delta,
    perplexity_ratio,
    positive_mean,
    root_mean_square,
    share_mean,
    windows_to_decide,
)
from bitwright.evaluation.verdict import judge

REAL = Path(__file__).with_name("real_windows.json")  # made by bench/interval_coverage.py

losses = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(0, 20, allow_nan=False))


@given(losses)
def test_the_interval_equals_scipys_t_interval(values):
    estimate = mean_interval(values)
    spread = values.std(ddof=1) / math.sqrt(len(values))
    half_width = scipy.stats.t(len(values) - 1).ppf(0.975) * spread
    assert estimate.value == pytest.approx(values.mean(), abs=1e-12)
    assert estimate.high - estimate.value == pytest.approx(half_width, abs=1e-9)
    assert estimate.value - estimate.low == pytest.approx(half_width, abs=1e-9)


@given(losses)
def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean(values):
    direct, deleted = mean_interval(values), jackknife(values[:, None], lambda means: means[..., 0])
    assert deleted.value == pytest.approx(direct.value, abs=1e-12)
    assert deleted.low == pytest.approx(direct.low, abs=1e-9)


@given(losses, st.randoms())
def test_the_order_of_windows_changes_nothing(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    other = np.roll(values, 1)
    assert mean_interval(values) == mean_interval(values[order])
    assert perplexity_delta(values, other) == perplexity_delta(values[order], other[order])


@given(losses)
def test_a_model_against_itself_has_no_delta_and_no_width(values):
    assert perplexity_delta(values, values) == Estimate(value=0.0, low=0.0, high=0.0)


def test_equal_windows_have_no_width():
    estimate = perplexity(np.full(9, 1.25))
    assert estimate.value == pytest.approx(math.exp(1.25), rel=1e-14)
    assert estimate.high - estimate.low < 1e-12


def test_pairing_removes_what_both_models_share():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(3.0, 0.5, size=20)
    delta = perplexity_delta(difficulty, difficulty + 0.01)
    alone = perplexity(difficulty)
    assert delta.high - delta.low < (alone.high - alone.low) / 20
    assert delta.low > 0


def test_the_interval_stays_inside_natural_bounds_and_holds_its_value():
    estimate = mean_interval(np.array([0.0, 0.0, 0.9]), floor=0.0, ceiling=1.0)
    assert (estimate.low, estimate.high) == (0.0, 1.0)
    assert estimate.low <= estimate.value <= estimate.high


def test_a_ruined_model_has_a_finite_perplexity():
    estimate = perplexity(np.array([5e3, 1e4]))
    assert math.isfinite(estimate.high)


def test_windows_to_decide_counts_until_the_limit_leaves_the_interval():
    rng = np.random.default_rng(1)
    values = rng.normal(0.09, 0.05, size=10)
    estimate = mean_interval(values)
    limit = estimate.value + (estimate.high - estimate.value) / 2
    assert windows_to_decide(estimate, limit=limit, windows=10) in (41, 42)
    assert windows_to_decide(estimate, limit=estimate.value, windows=10) is None


@given(losses)
def test_a_ratio_of_perplexities_is_one_for_equal_models_and_inverts(values):
    assert perplexity_ratio(values, values) == Estimate(value=1.0, low=1.0, high=1.0)
    values = values / 20  # an interval of two windows may reach the largest number that a record holds
    other = np.roll(values, 1) / 2
    there, back = perplexity_ratio(values, other), perplexity_ratio(other, values)
    assert there.value * back.value == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_a_positive_mean_has_a_positive_interval_that_reaches_up():
    values = np.array([0.01, 0.02, 0.2, 0.01, 0.03])
    estimate, plain = positive_mean(values), mean_interval(values)
    assert 0 < estimate.low < estimate.value < estimate.high
    assert estimate.value == plain.value
    assert estimate.high > plain.high
    assert positive_mean(np.zeros(4)) == Estimate(value=0.0, low=0.0, high=0.0)
    assert math.isfinite(positive_mean(np.array([0.0, 1e-9]), confidence=0.9999).high)


def test_a_share_of_tokens_is_weighted_by_tokens():
    values, chosen = np.arange(12.0).reshape(3, 4), np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=bool)
    estimate = share_mean(values, chosen)
    assert estimate is not None
    assert estimate.value == pytest.approx(values[chosen].mean())
    assert share_mean(values, chosen & np.array([[True], [True], [False]])) is None
    assert root_mean_square(np.array([4.0, 4.0, 4.0])) == Estimate(value=2.0, low=2.0, high=2.0)


def real():
    return {name: np.array(values) for name, values in json.loads(REAL.read_text())["figures"].items()}


@pytest.mark.parametrize("windows", [24, 32])
def test_intervals_from_a_few_real_windows_hold_the_value_of_the_whole_text(windows):
    """500 validations drawn from 320 windows of a model and its Q4_K_M, none repeating a window."""
    whole, rng = real(), np.random.default_rng(7)
    losses = whole["nll_artifact"] - whole["nll_reference"]
    hits = np.zeros(2)
    for _ in range(500):
        chosen = rng.permutation(len(losses))[:windows]
        kl = positive_mean(whole["kl"][chosen])
        ratio = perplexity_ratio(whole["nll_reference"][chosen], whole["nll_artifact"][chosen])
        hits += [kl.low <= whole["kl"].mean() <= kl.high, ratio.low <= math.exp(losses.mean()) <= ratio.high]
    assert ((hits / 500 >= 0.93) & (hits / 500 <= 0.97)).all(), hits / 500


@pytest.mark.slow
@pytest.mark.parametrize("distance", [0.8, 0.9, 0.96, 1.04, 1.1, 1.2])
def test_adding_real_windows_until_decided_errs_in_less_than_one_of_twenty(distance):
    values, rng = real()["kl"], np.random.default_rng(11)
    looks, limit = doubling(16, len(values)), values.mean() * distance
    wrong = 0
    for _ in range(500):
        order = rng.permutation(len(values))
        found = (judge(positive_mean(values[order[:n]], confidence=1 - 0.05 / len(looks)), limit) for n in looks)
        wrong += next((verdict for verdict in found if verdict != "INCONCLUSIVE"), "") == (
            "FAIL" if distance > 1 else "PASS"
        )
    assert wrong < 25


@pytest.mark.slow
@pytest.mark.parametrize("windows", [8, 16, 24])
def test_intervals_cover_the_truth_as_often_as_they_say(windows):
    """Windows differ (clusters), tokens are skewed (log-normal), both models share a window's difficulty."""
    rng = np.random.default_rng(5)
    runs, tokens = 4000, 64
    kl_window = rng.lognormal(-3.0, 0.3, size=(runs, windows))
    kl = (kl_window[..., None] * rng.lognormal(0.0, 1.0, size=(runs, windows, tokens))).mean(-1)
    kl_truth = math.exp(-3.0 + 0.3**2 / 2 + 0.5)
    base = rng.normal(3.0, 0.3, size=(runs, windows))
    shift = rng.normal(0.02, 0.02, size=(runs, windows))
    delta_truth = math.exp(3.0) * (math.exp(0.02) - 1)
    hits_kl = hits_delta = 0
    for run in range(runs):
        estimate = positive_mean(kl[run])
        hits_kl += estimate.low <= kl_truth <= estimate.high
        delta = perplexity_delta(base[run], base[run] + shift[run])
        hits_delta += delta.low <= delta_truth <= delta.high
    assert 0.92 <= hits_kl / runs <= 0.965
    assert 0.93 <= hits_delta / runs <= 0.965
