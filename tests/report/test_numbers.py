"""Figures are written with the digits that their intervals support."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.records import Estimate
from bitwright.report.numbers import digits, ends, percent, share_span, span


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (0.04523, "0.0452"), (23.514, "23.51"), (310.0, "310"), (4.3e-6, "4.30 × 10⁻⁶"),
        (2.7e43, "2.70 × 10⁴³"), (float("inf"), "inf"),
    ],
)  # fmt: skip
def test_digits(value: float, text: str) -> None:
    assert digits(value) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0.0452, 0.0407, 0.0497), "0.0452 (0.0407 to 0.0497)"),
        ((23.514, 20.4, 26.6), "23.5 (20.4 to 26.6)"),
        ((-0.0004, -0.02, 0.02), "0.000 (-0.020 to 0.020)"),
        ((3.14e-5, 3.0e-5, 3.3e-5), "3.14 (3.00 to 3.30) × 10⁻⁵"),
        ((2.0, 2.0, 2.0), "2"),
        ((0.5, 0.4, float("inf")), "0.5 (0.4 to inf)"),
    ],
)
def test_all_three_numbers_are_rounded_by_the_interval(numbers: tuple[float, float, float], text: str) -> None:
    value, interval = ends(estimate(*numbers))
    assert span(estimate(*numbers)) == text
    assert value.partition(" ×")[0] in text
    assert interval.partition(" ×")[0] in text


def test_rounding_moves_no_end_over_the_limit() -> None:
    near = estimate(0.0951, 0.0902, 0.09996)
    assert span(near) == "0.0951 (0.0902 to 0.1000)"
    assert span(near, 0.1) == "0.09510 (0.09020 to 0.09996)"


@given(st.floats(1e-6, 1e3), st.floats(1e-3, 0.9), st.floats(0.5, 2.0))
def test_what_is_written_lies_on_the_side_of_the_limit_on_which_it_was_measured(
    value: float, half: float, at: float
) -> None:
    found, limit = estimate(value, value * (1 - half), value * (1 + half)), value * at
    if min(abs(found.low / limit - 1), abs(found.high / limit - 1)) < 1e-6:
        return
    numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", span(found, limit).partition(" ×")[0])]
    power = re.search(r"10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", span(found, limit))
    plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    factor = 10.0 ** int(power[1].translate(plain)) if power else 1.0
    assert (numbers[1] * factor < limit) == (found.low < limit)
    assert (numbers[2] * factor < limit) == (found.high < limit)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.842, "84.2 %"), (1.0, "100.0 %"), (0.9997, "99.97 %"), (0.0002, "0.02 %"), (0.0, "0.0 %")],
)
def test_a_share_that_is_not_whole_never_reads_as_whole(value: float, text: str) -> None:
    assert percent(value) == text


def test_shares_are_said_in_per_cent() -> None:
    assert share_span(estimate(0.871, 0.86, 0.88)) == "87.1 % (86.0 to 88.0 %)"
