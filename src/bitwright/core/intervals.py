"""A figure that is not known exactly: two ends that shall hold the truth four times out of five, and a middle."""

from __future__ import annotations

from bitwright.core.documents import Record


class Interval(Record, frozen=True, kw_only=True):
    """The truth is expected between `low` and `high` in 80 % of cases; `rests_on` says why, where the owner does not.

    The unit stands in the name of the field that holds it.
    """

    expected: float
    low: float
    high: float
    rests_on: str = ""

    def __add__(self, other: Interval) -> Interval:
        """Ends are added to ends: parts of a sum are taken to err together."""
        return Interval(
            expected=self.expected + other.expected, low=self.low + other.low, high=self.high + other.high,
            rests_on=self.rests_on,
        )  # fmt: skip

    def plus(self, amount: float) -> Interval:
        """All three and a figure that is known."""
        return Interval(
            expected=self.expected + amount, low=self.low + amount, high=self.high + amount, rests_on=self.rests_on
        )

    def times(self, factor: float) -> Interval:
        """All three by a factor that is not negative."""
        return Interval(
            expected=self.expected * factor, low=self.low * factor, high=self.high * factor, rests_on=self.rests_on
        )

    def under(self, amount: float) -> Interval:
        """`amount` divided by each, as when seconds become a rate: the ends change places."""
        return Interval(
            expected=amount / self.expected, low=amount / self.high, high=amount / self.low, rests_on=self.rests_on
        )


def exactly(value: float) -> Interval:
    """A figure that is known."""
    return Interval(expected=value, low=value, high=value)
