"""Dollars of a deployment: per hour of all its devices, and per million generated tokens at the load it was judged by.

    dollars per million tokens = dollars per hour / (3600 · tokens per second) · 10^6
Idle hours are not in it: at half of the load a token costs twice as much. The price is the target's, or the range of
the device's row. How many replicas a load takes follows from the predicted speed: enough that the limits are met.

Not here: prices (facts/hardware.toml), speeds (speed.py).
Source: decision framework handbook, cost optimization; its table contradicts its own code, see docs/reference/speed.md.
"""

from __future__ import annotations

import dataclasses
import math

from bitwright.core.intervals import Interval, exactly
from bitwright.core.machine import MachineCalibration
from bitwright.core.ranking import Cost, Speed
from bitwright.core.target import Limits
from bitwright.planner.deployment import Deployment
from bitwright.planner.speed import speed as speed_of

SECONDS_PER_HOUR, MILLION = 3600, 1e6


def cost(deployment: Deployment, speed: Speed) -> Cost | None:
    """What serving costs, or `None` where the device has no price."""
    price = _price(deployment)
    if price is None:
        return None
    dollars, source, date = price
    hourly = dollars.times(deployment.devices)
    rate = speed.tokens_per_second
    return Cost(
        dollars_per_hour=hourly,
        dollars_per_million_tokens=Interval(
            expected=per_million(hourly.expected, rate.expected),
            low=per_million(hourly.low, rate.high),
            high=per_million(hourly.high, rate.low),
        ),
        source=source,
        date=date,
    )


def per_million(dollars_per_hour: float, tokens_per_second: float) -> float:
    """Dollars for a million tokens."""
    return dollars_per_hour / SECONDS_PER_HOUR / tokens_per_second * MILLION


def replicas_for(tokens_per_second: float, of_one: float) -> int:
    """Replicas that together reach a throughput, each under its own full load."""
    return max(1, math.ceil(tokens_per_second / of_one))


def replicas_needed(deployment: Deployment, calibration: MachineCalibration | None = None) -> int | None:
    """The fewest replicas that the target's requests are shared out to so that the expected figures meet its limits.

    `None` where one request a replica would not do, or where no speed can be predicted.
    """
    least, most = 1, deployment.target.workload.concurrency
    if not _meets(deployment, most, calibration):
        return None
    while least < most:
        middle = (least + most) // 2
        if _meets(deployment, middle, calibration):
            most = middle
        else:
            least = middle + 1
    return least


def meets(speed: Speed, limits: Limits) -> bool:
    """Whether the expected figures lie within the limits."""
    return (
        (limits.ttft_seconds is None or speed.ttft_seconds.expected <= limits.ttft_seconds)
        and (
            limits.user_tokens_per_second is None
            or speed.user_tokens_per_second.expected >= limits.user_tokens_per_second
        )
        and (limits.tokens_per_second is None or speed.tokens_per_second.expected >= limits.tokens_per_second)
    )


def _meets(deployment: Deployment, replicas: int, calibration: MachineCalibration | None) -> bool:
    found = speed_of(dataclasses.replace(deployment, replicas=replicas), calibration)
    return found is not None and meets(found, deployment.target.limits)


def _price(deployment: Deployment) -> tuple[Interval, str, str] | None:
    """Dollars per hour of one device, who says so, and when."""
    target = deployment.target
    if target.dollars_per_hour is not None:
        return exactly(target.dollars_per_hour), "the request", ""
    price = target.device.price
    if price is None:
        return None
    middle = math.sqrt(price.low * price.high)  # offers differ by factors
    return Interval(expected=middle, low=price.low, high=price.high), price.source, price.date
