import numpy as np
import pytest

from bitwright.evaluation import bootstrap
from bitwright.evaluation.bootstrap import quantile_intervals


def skewed(windows=20, tokens=64, seed=0):
    """Tokens of a window share its level, as losses do."""
    rng = np.random.default_rng(seed)
    return rng.lognormal(-3, 0.4, size=(windows, 1)) * rng.lognormal(0, 1, size=(windows, tokens))


def test_the_fast_way_equals_drawing_whole_windows(monkeypatch):
    """The oracle joins the tokens of the windows of each draw and sorts them."""
    values = skewed(6, 9)
    fast = quantile_intervals(values, (0.5, 0.9), draws=50)
    generator = np.random.default_rng(bootstrap.SEED)
    draws = []
    for _ in range(50):
        tokens = np.sort(values[generator.integers(0, 6, size=6)].ravel())
        draws.append([tokens[int(np.ceil(share * len(tokens))) - 1] for share in (0.5, 0.9)])
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    assert [estimate.low for estimate in fast] == pytest.approx(low)
    assert [estimate.high for estimate in fast] == pytest.approx(high)


def test_surer_is_wider_and_equal_windows_have_no_width():
    usual, sure = (quantile_intervals(skewed(), (0.9,), confidence=level)[0] for level in (0.95, 0.99))
    assert sure.low <= usual.low < usual.value < usual.high <= sure.high
    level = quantile_intervals(np.tile(np.arange(10.0), (5, 1)), (0.5,))[0]
    assert level.high - level.low < 1


@pytest.mark.slow
def test_quantiles_are_covered_about_as_often_as_they_say():
    truth = np.quantile(skewed(20000, 64, seed=1), (0.5, 0.9, 0.99))
    hits = np.zeros(3)
    for seed in range(300):
        found = quantile_intervals(skewed(24, 64, seed=seed + 2), (0.5, 0.9, 0.99), draws=200)
        hits += [estimate.low <= value <= estimate.high for estimate, value in zip(found, truth, strict=True)]
    assert ((hits / 300 >= 0.88) & (hits / 300 <= 0.98)).all(), hits / 300
