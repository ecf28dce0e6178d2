import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.report.charts import Bar, Point, Series, bars, chart, interval, number

numbers = st.floats(-1e9, 1e9, allow_nan=False)


def draw(points, **options):
    marks = tuple(Point(x=x, y=y, tip=f"{x}, {y}") for x, y in points)
    return chart([Series(name="a", points=marks)], title="t", x_label="x", y_label="y", **options)


def marks_of(svg):
    places = (path.get("transform") for path in ElementTree.fromstring(svg).iter("path"))
    return [
        tuple(float(part) for part in place.partition(")")[0].removeprefix("translate(").split()) for place in places
    ]


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), st.booleans())
def test_every_mark_lies_on_the_sheet(points, log_y):
    svg = draw(points, log_y=log_y)
    drawable = [point for point in points if not log_y or point[1] > 0]
    assert bool(svg) == bool(drawable)
    if svg:
        marks = marks_of(svg)
        assert len(marks) == len(drawable)
        assert all(0 <= x <= 960 and 0 <= y <= 300 for x, y in marks)


def test_larger_values_lie_higher_and_further_right():
    marks = marks_of(draw([(1, 0.1), (2, 0.2), (4, 0.4)]))
    assert [x for x, _ in marks] == sorted(x for x, _ in marks)
    assert [y for _, y in marks] == sorted((y for _, y in marks), reverse=True)
    assert marks[2][0] - marks[1][0] == pytest.approx(2 * (marks[1][0] - marks[0][0]), abs=0.3)


def test_equal_ratios_are_equal_steps_on_a_log_axis():
    marks = marks_of(draw([(1, 0.001), (2, 0.01), (3, 0.1)], log_y=True))
    assert marks[0][1] - marks[1][1] == pytest.approx(marks[1][1] - marks[2][1], abs=0.3)


def test_values_that_cannot_be_drawn_are_left_out():
    assert len(marks_of(draw([(1, math.nan), (2, 1.0), (3, math.inf)]))) == 1


def test_bars_are_as_long_as_their_values():
    svg = ElementTree.fromstring(
        bars([Bar(name="a", value=10, text="10"), Bar(name="b", value=5, text="5")], title="t")
    )
    widths = [float(rect.get("width")) for rect in svg.iter("rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert bars([Bar(name="a", value=0, text="0")], title="t") == ""


def test_the_gauge_shows_the_limit_on_its_side_of_the_interval():
    for value, limit in ((0.05, 0.1), (0.3, 0.1)):
        gauge = interval(value=value, low=value * 0.9, high=value * 1.1, limit=limit, verdict="PASS")
        svg = ElementTree.fromstring(gauge)
        at = {line.get("class"): line for line in svg.iter("line")}
        ends = float(at["range"].get("x1")), float(at["range"].get("x2"))
        assert (float(at["limit"].get("x1")) > max(ends)) == (limit > value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.0005, "0.0005"),
        (2e-5, "2·10⁻⁵"),
        (1e-7, "10⁻⁷"),
        (0.25, "0.25"),
        (12000.0, "12 000"),
        (3e6, "3·10⁶"),
    ],
)
def test_ticks_are_short(value, text):
    assert number(value) == text


def test_no_name_lies_over_the_ticks():
    marks = (Point(x=1.01, y=0.2, tip="a", label="W4A16 g128 sym, fp8 cache"), Point(x=3, y=0.01, tip="b"))
    svg = chart([Series(name="a", points=marks, joined=False)], title="t", x_label="x", y_label="y", log_y=True)
    name = next(text for text in ElementTree.fromstring(svg).iter("text") if text.get("class") == "value")
    assert (name.get("text-anchor"), float(name.get("x")) >= 72) == ("start", True)
