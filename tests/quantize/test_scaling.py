"""Scales of columns: they help where columns differ, leave alone where nothing helps, and do not depend on threads."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.schemes import GgmlScheme, IntScheme
from bitwright.quantize.nearest import round_weighted
from bitwright.quantize.scaling import LARGEST, scale_columns

Q4_K, W4 = GgmlScheme(type="Q4_K"), IntScheme(bits=4, group_size=64)


def uneven(seed: int, spread: float, rows: int = 32, columns: int = 256) -> tuple[np.ndarray, np.ndarray]:
    """A weight whose columns differ in size by a log-normal factor that its inputs undo, and their mean squares."""
    rng = np.random.default_rng(seed)
    factor = np.exp(spread * rng.standard_normal(columns))
    weight = (rng.standard_normal((rows, columns)) * factor).astype(np.float32)
    return weight, (1 / np.square(factor)).astype(np.float32)


def output_error(weight: np.ndarray, square: np.ndarray, scales: np.ndarray, scheme: GgmlScheme | IntScheme) -> float:
    scaled = weight * scales
    importance = (square / np.square(scales)).astype(np.float32)
    decoded = round_weighted(scaled, importance / importance.mean(), scheme).decode() / scales
    return float((np.square(decoded - weight) @ square).sum())


@pytest.mark.parametrize("scheme", [Q4_K, W4], ids=lambda scheme: scheme.label)
def test_uneven_columns_are_levelled(scheme: GgmlScheme | IntScheme) -> None:
    weight, square = uneven(0, spread=0.5)
    found = scale_columns([weight], [scheme], square)
    ones = np.ones_like(square)
    assert found.loss < 0.8
    measured = output_error(weight, square, found.scales_I, scheme) / output_error(weight, square, ones, scheme)
    assert measured == pytest.approx(found.loss, abs=0.02)  # the search sees a floor under the mean squares


@given(st.integers(0, 2**32 - 1), st.floats(0, 1.5))
def test_scaling_never_loses(seed: int, spread: float) -> None:
    weight, square = uneven(seed, spread, rows=8, columns=128)
    found = scale_columns([weight], [W4], square)
    assert found.loss <= 1
    assert (found.exponents == (0.0, 0.0)) == bool((found.scales_I == 1).all())
    assert (found.scales_I <= LARGEST * 1.01).all()
    assert (found.scales_I >= 0.99 / LARGEST).all()


def test_nothing_is_done_where_nothing_enters() -> None:
    weight, _ = uneven(1, 0.5)
    found = scale_columns([weight], [W4], np.zeros(256, dtype=np.float32))
    assert found.exponents == (0.0, 0.0)
    assert scale_columns([np.zeros_like(weight)], [W4], np.ones(256, dtype=np.float32)).exponents == (0.0, 0.0)


def test_a_column_of_zeros_takes_no_part() -> None:
    weight, square = uneven(2, 0.5)
    weight[:, 7] = 0
    assert np.isfinite(scale_columns([weight], [Q4_K], square).scales_I).all()


def test_heads_that_read_one_value_share_scales() -> None:
    weight, square = uneven(3, 0.5)
    scales = scale_columns([weight], [W4], square, repeats=2, head_dim=32).scales_I.reshape(-1, 2, 32)
    assert np.array_equal(scales[:, 0], scales[:, 1])
    assert len(np.unique(scales)) > 1


def test_threads_do_not_matter() -> None:
    weight, square = uneven(4, 0.5)
    one, four = (scale_columns([weight], [Q4_K], square, threads=threads) for threads in (1, 4))
    assert one.exponents == four.exponents
    assert np.array_equal(one.scales_I, four.scales_I)
