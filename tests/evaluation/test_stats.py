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


positive = hnp.arrays(np.float64, st.integers(2, 30), elements=st.floats(1e-6, 10))


@given(positive, st.floats(1e-6, 1e6), st.randoms())
def test_a_positive_mean_has_the_unit_of_its_windows_and_no_order(values, unit, random):
    estimate, scaled = positive_mean(values), positive_mean(values * unit)
    for side in ("low", "value", "high"):
        assert getattr(scaled, side) == pytest.approx(unit * getattr(estimate, side), rel=1e-6, abs=1e-9 * unit)
    order = list(range(len(values)))
    random.shuffle(order)
    assert positive_mean(values[order]) == estimate


@given(positive, st.floats(0.5, 0.98))
def test_a_positive_mean_lies_inside_and_surer_is_wider(values, level):
    usual, surer = positive_mean(values, confidence=level), positive_mean(values, confidence=level + 0.015)
    assert 0 <= surer.low <= usual.low <= usual.value <= usual.high <= surer.high
    assert usual.high >= mean_interval(values, confidence=level).high * (1 - 1e-12)


@given(losses)
def test_windows_mirrored_mirror_their_interval(values):
    here, there = mean_interval(values), mean_interval(-values)
    assert (there.low, there.high) == (-here.high, -here.low)


@given(positive)
def test_a_root_of_a_mean_is_the_root_of_its_interval(values):
    root, mean = root_mean_square(values), positive_mean(values)
    assert (root.low**2, root.value**2, root.high**2) == pytest.approx((mean.low, mean.value, mean.high))


def test_hall_inverts_his_cubic():
    """g(x) = x + a x^2 / sqrt(n) + a^2 x^3 / 3n + b / sqrt(n), with a third and a sixth of the skewness."""
    values = np.array([0.1, 0.3, 0.2, 1.9, 0.4, 0.2, 0.7, 0.5])
    spread, count, estimate = values.std(ddof=1), len(values), positive_mean(values)
    skewness = max(scipy.stats.skew(values, bias=False), 3 * spread / values.mean())
    for end, level in ((estimate.low, 0.975), (estimate.high, 0.025)):
        x = (estimate.value - end) / spread * math.sqrt(count)
        a, b = skewness / 3, skewness / 6
        cubic = x + a * x**2 / math.sqrt(count) + a**2 * x**3 / (3 * count) + b / math.sqrt(count)
        assert cubic == pytest.approx(scipy.stats.t(count - 1).ppf(level))


def test_a_share_of_tokens_is_weighted_by_tokens():
    values, chosen = np.arange(12.0).reshape(3, 4), np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=bool)
    estimate = share_mean(values, chosen)
    assert estimate is not None
    assert estimate.value == pytest.approx(values[chosen].mean())
    assert share_mean(values, chosen & np.array([[True], [True], [False]])) is None
    assert root_mean_square(np.array([4.0, 4.0, 4.0])) == Estimate(value=2.0, low=2.0, high=2.0)


def real():
    return {name: np.array(values) for name, values in json.loads(REAL.read_text())["figures"].items()}


RUNS = 2000
SLACK = 2 * math.sqrt(0.93 * 0.07 / RUNS)  # binomial errors of a share of so many


def share_held(draws, truth, interval):
    """Of draws [R, W] whose interval holds the truth."""
    found = (interval(values) for values in draws)
    return sum(estimate.low <= truth <= estimate.high for estimate in found) / len(draws)


@pytest.mark.parametrize("windows", [8, 16, 32])
def test_intervals_from_a_few_real_windows_hold_the_value_of_the_whole_text(windows):
    """Windows of a model and its Q4_K_M, drawn with repetition: those of a text without end, of which these are."""
    whole = real()
    chosen = np.random.default_rng(7).integers(0, len(whole["kl"]), size=(RUNS, windows))
    kl = share_held(whole["kl"][chosen], whole["kl"].mean(), positive_mean)
    assert 0.93 - SLACK <= kl <= 0.97 + SLACK
    losses = whole["nll_artifact"] - whole["nll_reference"]
    ratio = share_held(losses[chosen], math.exp(losses.mean()), lambda change: perplexity_ratio(0 * change, change))
    assert 0.93 - SLACK <= ratio <= 0.97 + SLACK


def test_students_interval_alone_would_not_hold_a_skewed_mean():
    kl = real()["kl"]
    draws = kl[np.random.default_rng(7).integers(0, len(kl), size=(RUNS, 12))]
    assert share_held(draws, kl.mean(), mean_interval) < 0.93 - SLACK


@pytest.mark.parametrize(("skewness", "sigma"), [(0, None), (2, 0.551), (4, 0.833)])
@pytest.mark.parametrize("windows", [8, 32])
def test_intervals_of_made_windows_hold_their_mean(skewness, sigma, windows):
    rng, size = np.random.default_rng(skewness), (RUNS, windows)
    draws = rng.normal(1.0, 0.25, size).clip(min=0.0) if sigma is None else rng.lognormal(0.0, sigma, size)
    truth = 1.0 if sigma is None else math.exp(sigma**2 / 2)
    assert 0.93 - SLACK <= share_held(draws, truth, positive_mean) <= 0.97 + SLACK


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


def skewed(rng):
    return rng.lognormal(0.0, 0.833, size=200_000)  # a skewness of 4


def of_two_kinds(rng):
    return rng.lognormal(0.0, 0.3, size=200_000) * np.where(rng.random(200_000) < 0.2, 4.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "windows_of", [lambda rng: real()["kl"], skewed, of_two_kinds], ids=["real", "skewed", "kinds"]
)
def test_a_limit_beside_the_truth_is_decided_wrongly_in_less_than_one_of_twenty(windows_of):
    """Where errors are most frequent: hardly any draw but a wrong one decides."""
    rng = np.random.default_rng(13)
    whole = windows_of(rng)
    looks, runs, wrong = doubling(32, 512), 1000, np.zeros(2)
    for places in rng.integers(0, len(whole), size=(runs, 512)):
        found = [positive_mean(whole[places[:look]], confidence=1 - 0.05 / len(looks)) for look in looks]
        wrong += [any(e.high < whole.mean() for e in found), any(e.low > whole.mean() for e in found)]
    assert (wrong / runs < 0.05).all(), wrong / runs


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
    assert 0.93 <= hits_kl / runs <= 0.97
    assert 0.93 <= hits_delta / runs <= 0.965
