"""Figures as a page writes them: as many digits as the interval supports, no rounding that says something else.

An estimate is rounded where the second digit of its half width stands, all three numbers alike. Where that would move
an end of the interval onto or over the limit that it is held against, digits are added until it does not; a share that
is not whole never reads 100 %.
"""

from __future__ import annotations

import math

from bitwright.core.records import Estimate

SMALL, LARGE = 1e-4, 1e5  # beyond them powers of ten are easier to read than zeros
NOTHING = 1e-300  # what is smaller is zero, and has no logarithm worth one
LEAST = 1e-5  # of the value: narrower intervals add no digits
KEPT = 2  # digits of the half width
MORE = 6  # digits that a limit nearby may add
RAISED = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")


def digits(value: float) -> str:
    """Three significant digits below one and four above, without powers of ten for everyday sizes."""
    if math.isfinite(value) and abs(value) > NOTHING and (abs(value) < SMALL or abs(value) >= LARGE):
        power = math.floor(math.log10(abs(value)))
        return f"{value / 10.0**power:.2f} × {power_of_ten(power)}"
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.4g}"


def span(estimate: Estimate, limit: float | None = None) -> str:
    """`0.0774 (0.0701 to 0.0846)`; one number where there is no interval."""
    return _joined(ends(estimate, limit))


def share_span(estimate: Estimate, limit: float | None = None) -> str:
    """The same of a share: `87.1 % (86.0 to 88.0 %)`."""
    return _joined(ends(estimate, limit, share=True))


def percent(value: float) -> str:
    """`0.842` → `84.2 %`."""
    places = 1
    while places < MORE and value not in (0.0, 1.0) and round(100 * value, places) in (0.0, 100.0):
        places += 1
    return f"{100 * value:.{places}f} %"


def ends(estimate: Estimate, limit: float | None = None, *, share: bool = False) -> tuple[str, str]:
    """Value and interval apart: `0.0774`, `0.0701 to 0.0846`; no interval where there is none."""
    if estimate.low == estimate.high == estimate.value:
        return (percent if share else digits)(estimate.value), ""
    numbers = [estimate.value, estimate.low, estimate.high]
    if not all(map(math.isfinite, numbers)):
        value, low, high = map(percent if share else digits, numbers)
        return value, f"{low} to {high}"
    factor = 100.0 if share else 1.0
    largest = factor * max(map(abs, numbers))
    power = 0 if SMALL <= largest < LARGE or largest < NOTHING else math.floor(math.log10(largest))
    factor /= 10.0**power
    scaled = [factor * number for number in numbers]
    places = _places(scaled, None if limit is None else factor * limit)
    value, low, high = (_plain(number, places) for number in scaled)
    behind = (f" × {power_of_ten(power)}" if power else "") + (" %" if share else "")
    return f"{value}{behind}", f"{low} to {high}{behind}"


def _joined(parts: tuple[str, str]) -> str:
    value, interval = parts
    if not interval:
        return value
    (number, sign, power), (range_, _, _) = value.partition(" × "), interval.partition(" × ")
    return f"{number} ({range_}){sign}{power}"


def _places(numbers: list[float], limit: float | None) -> int:
    """Decimals for value, low and high."""
    _, low, high = numbers
    half = max((high - low) / 2, LEAST * max(map(abs, numbers)), NOTHING)
    places = max(0, KEPT - 1 - math.floor(math.log10(half)))
    for more in range(places, places + MORE):
        if limit is None or all(_sign(round(end, more) - limit) == _sign(end - limit) for end in (low, high)):
            return more
    return places


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _plain(value: float, places: int) -> str:
    text = f"{value:.{places}f}"
    return text.lstrip("-") if not float(text) else text  # no minus before zero


def power_of_ten(power: int) -> str:
    """`-5` → `10⁻⁵`."""
    return f"10{str(power).translate(RAISED)}"
