import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.records import Estimate, Quantile
from bitwright.evaluation.quantiles import quantile
from bitwright.evaluation.stats import UNBOUNDED, mean_interval, windows_to_decide

SHARES = (0.5, 0.9, 0.99)


def skewed(windows=20, tokens=64, seed=0):
    """Tokens of a window share its level, as losses do."""
    rng = np.random.default_rng(seed)
    return rng.lognormal(-3, 0.4, size=(windows, 1)) * rng.lognormal(0, 1, size=(windows, tokens))


def test_its_ends_are_the_quantiles_of_the_shares_at_the_ends_of_the_share_above():
    values = skewed()
    found = quantile(values, 0.9).kl
    above = mean_interval((values > found.value).mean(axis=1))
    ordered = np.sort(values.ravel())
    assert found.value == np.quantile(values, 0.9)
    assert (ordered > found.high).mean() == pytest.approx(0.1 - (above.value - above.low), abs=1.5 / values.size)
    assert (ordered > found.low).mean() == pytest.approx(0.1 + (above.high - above.value), abs=1.5 / values.size)


@given(st.integers(0, 1000), st.integers(2, 20), st.sampled_from(SHARES), st.floats(0.01, 100))
def test_it_lies_inside_scales_with_the_unit_and_is_wider_where_surer(seed, windows, share, unit):
    values = skewed(windows, 32, seed)
    usual, surer, scaled = (
        quantile(values, share),
        quantile(values, share, confidence=0.99),
        quantile(values * unit, share),
    )
    assert surer.kl.low <= usual.kl.low <= usual.kl.value <= usual.kl.high <= surer.kl.high
    assert scaled.bounded == usual.bounded
    assert (scaled.kl.low, scaled.kl.value) == pytest.approx((unit * usual.kl.low, unit * usual.kl.value))


def test_what_too_few_tokens_lie_above_has_no_upper_end():
    found = quantile(skewed(8, 64), 0.999)
    assert not found.bounded
    assert found.kl.high == UNBOUNDED
    assert windows_to_decide(found.kl, limit=5.0, windows=8) == 16
    assert quantile(skewed(64, 64), 0.99).bounded


def test_a_perplexity_that_may_be_hundreds_higher_is_not_taken_for_unbounded():
    wide = Estimate(value=-20.0, low=-380.0, high=340.0)
    assert windows_to_decide(wide, limit=0.3, windows=3) > 500


def test_equal_windows_have_no_width_and_an_old_record_is_bounded():
    level = quantile(np.tile(np.arange(10.0), (5, 1)), 0.5)
    assert level.bounded
    assert level.kl.high - level.kl.low < 1
    assert quantile(np.zeros((4, 8)), 0.99).kl == Estimate(value=0.0, low=0.0, high=0.0)
    assert not quantile(np.minimum(skewed(8, 64), 0.2), 0.99).bounded  # what lies above is not known
    old = json.loads(msgspec.json.encode(level))
    del old["bounded"]
    assert msgspec.convert(old, Quantile) == level


@pytest.mark.parametrize("windows", [8, 16, 32])
def test_quantiles_are_covered_as_often_as_they_say(windows):
    truth, runs = np.quantile(skewed(20000, 64, seed=1), SHARES), 400
    hits = np.zeros(len(SHARES))
    for seed in range(runs):
        values = skewed(windows, 64, seed=seed + 2)
        found = [quantile(values, share).kl for share in SHARES]
        hits += [estimate.low <= value <= estimate.high for estimate, value in zip(found, truth, strict=True)]
    assert (hits / runs >= 0.93 - 2 * math.sqrt(0.93 * 0.07 / runs)).all(), hits / runs


@pytest.mark.parametrize("windows", [2, 3, 8])
def test_tokens_that_nearly_all_agree_exactly_give_an_interval_or_none(windows):
    values = np.zeros((windows, 64))
    values[-1, :40] = 1e-3 * np.arange(1, 41)  # only one window departs: of 2 or 3, that may be most of all text
    median = quantile(values, 0.5)
    assert median.kl.value == median.kl.low == 0
    assert median.bounded == (windows == 8)
    assert median.kl.high == (0 if median.bounded else UNBOUNDED)
