"""Charts as inline SVG: no script, no font, no file beside the page.

Why by hand: a plotting script adds 4.5 MB of JavaScript to every report, or a numeric stack to a room that needs none;
these charts take a few kilobytes, print well, follow light and dark through the page's own colours
(classes `s0` … `s7`) and need nothing from the network. Every mark carries a `<title>`, which browsers show on hover.
Series differ in shape as well as in colour, for eyes and printers that see no colours.
Not here: what is drawn (figures.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from markupsafe import Markup

from bitwright.report.labels import limit_boxes, place_labels
from bitwright.report.numbers import NOTHING, power_of_ten

WIDTH, HALF_WIDTH, HEIGHT = 960, 470, 300
LEFT, RIGHT, TOP, BOTTOM = 72, 16, 14, 46
COLOURS = 8
TICKS = 5
SHAPES = (  # around the origin, about 2 units wide
    "M-.9 0a.9 .9 0 1 0 1.8 0a.9 .9 0 1 0 -1.8 0z", "M-.8 -.8h1.6v1.6h-1.6z", "M0 -1.1L1 .8H-1z",
    "M0 -1.2L1.1 0L0 1.2L-1.1 0z", "M0 1.1L1 -.8H-1z", "M-1.1 -.35h.75v-.75h.7v.75h.75v.7h-.75v.75h-.7v-.75h-.75z",
    "M-.5 -1L0 -.5L.5 -1L1 -.5L.5 0L1 .5L.5 1L0 .5L-.5 1L-1 .5L-.5 0L-1 -.5z", "M-.5 -1h1L1 0L.5 1h-1L-1 0z",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One mark; `low` and `high` draw an interval, `label` is written beside it, `tip` shows on hover."""

    x: float
    y: float
    tip: str
    low: float | None = None
    high: float | None = None
    label: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Marks of one colour. `joined` draws a line through them; `strong` marks are large, and above all others.

    `kind` is a class to colour them by instead of their place: pass, fail, inconclusive.
    """

    name: str
    points: tuple[Point, ...]
    joined: bool = True
    strong: bool = False
    kind: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar from zero. `strong` is the one that the page is about."""

    name: str
    value: float
    text: str
    strong: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """Data → pixels, linear or logarithmic."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self._map(self.low), self._map(self.high)
        share = (self._map(min(max(value, self.low), self.high)) - low) / (high - low)
        return round(self.start + share * (self.stop - self.start), 1)

    def _map(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def ticks(self) -> list[float]:
        if not self.log:
            return _round_numbers(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        marks = (1.0,) if self.high / self.low > 300 else (1.0, 2.0, 5.0)
        return [tick for power in decades for m in marks if self.low <= (tick := m * 10.0**power) <= self.high]


def chart(
    series: Sequence[Series],
    *,
    title: str,
    x_label: str,
    y_label: str,
    log_y: bool = False,
    x_from_zero: bool = False,
    x_span: tuple[float, float] | None = None,
    limit: tuple[str, float] | None = None,
    width: int = WIDTH,
) -> Markup:
    """Lines or dots over two axes, with an optional dashed limit. Log axes leave out values that are not positive.

    The horizontal axis goes from the first point to the last, from zero, or over `x_span`.
    """
    drawn = [_drawable(one, log_y) for one in series]
    points = [point for one in drawn for point in one.points]
    if not points:
        return Markup("")
    highs = [point.high if point.high is not None else point.y for point in points] + ([limit[1]] if limit else [])
    lows = [point.y for point in points]
    x = Scale(
        *x_span
        or _span([point.x for point in points] + ([0.0] if x_from_zero else []), room=0.06 if x_from_zero else 0.0),
        LEFT,
        width - RIGHT,
    )
    floor = min(lows) / 1.3 if log_y else min(0.0, *lows, 0.0)
    top = max(highs) * (1.3 if log_y else 1.08)
    y = Scale(*_span([floor, top]), HEIGHT - BOTTOM, TOP, log_y)
    body = [_axes(x, y, x_label, y_label), _limit(limit, x, y)]
    coloured = sorted(enumerate(drawn), key=lambda held: held[1].strong)
    body += [_series(one, index % COLOURS, x, y) for index, one in coloured]
    marks = [(x(point.x), y(point.y)) for point in points]
    taken = [] if limit is None else limit_boxes(limit[0], right=x.stop, y=y(limit[1]))
    body += place_labels([point.label for point in points], marks, left=LEFT, right=x.stop, bottom=y.start, taken=taken)
    named = [(index % COLOURS, one) for index, one in enumerate(drawn) if one.name and one.points]
    return _svg(body, title=title, width=width, height=HEIGHT) + (_legend(named) if len(named) > 1 else Markup(""))


def bars(entries: Sequence[Bar], *, title: str, width: int = HALF_WIDTH) -> Markup:
    """Horizontal bars from zero with their values written beside them."""
    longest = max((bar.value for bar in entries), default=0.0)
    if longest <= 0:
        return Markup("")
    row, left, right = 34, 90, 110
    body = []
    for index, bar in enumerate(entries):
        length = max(1.0, (width - left - right) * bar.value / longest)
        middle = index * row + row / 2
        body.append(
            Markup(
                '<g><title>{0}: {1}</title><text class="name" x="{2}" y="{3}" text-anchor="end">{0}</text>'
                '<rect class="{4}" x="{5}" y="{6}" width="{7:.1f}" height="{8}" rx="3"/>'
                '<text class="value" x="{9:.1f}" y="{3}">{1}</text></g>'
            ).format(
                bar.name, bar.text, left - 10, middle + 5, "fill0" if bar.strong else "fill-quiet",
                left, middle - 10, length, 20, left + length + 8,
            )
        )  # fmt: skip
    return _svg(body, title=title, width=width, height=row * len(entries) + 4)


def interval(*, value: float, low: float, high: float, limit: float, verdict: str, said: str = "") -> Markup:
    """A thin gauge: the estimate with its interval, and the limit that it is held against, written as `said`."""
    width, height = 260, 40
    ends = [0.0, low, high, limit]
    x = Scale(*_span([min(ends), max(ends)], room=0.08), 6, width - 6)
    label = f"{value:.4g}, interval {low:.4g} to {high:.4g}, limit {limit:g}"
    edge = "end" if x(limit) > width / 2 else "start"
    return Markup(
        '<svg class="gauge {0}" viewBox="0 0 {1} {2}" role="img" aria-label="{3}"><title>{3}</title>'
        '<line class="grid" x1="6" x2="{4}" y1="24" y2="24"/>'
        '<line class="range" x1="{5}" x2="{6}" y1="24" y2="24"/><circle class="dot" cx="{7}" cy="24" r="5"/>'
        '<line class="limit" x1="{8}" x2="{8}" y1="12" y2="36"/>'
        '<text class="tick" x="{8}" y="9" text-anchor="{9}">limit {10}</text></svg>'
    ).format(
        verdict.lower(),
        width,
        height,
        label,
        width - 6,
        x(low),
        x(high),
        x(value),
        x(limit),
        edge,
        said or f"{limit:g}",
    )


def _drawable(series: Series, log_y: bool) -> Series:
    kept = tuple(point for point in series.points if math.isfinite(point.x + point.y) and not (log_y and point.y <= 0))
    return dataclasses.replace(series, points=kept)


def _series(series: Series, colour: int, x: Scale, y: Scale) -> Markup:
    parts = []
    look = series.kind or f"s{colour}"
    if series.joined and len(series.points) > 1:
        path = " ".join(f"{x(point.x)},{y(point.y)}" for point in series.points)
        parts.append(Markup('<polyline class="line {}" points="{}"/>').format(look, path))
    for point in series.points:
        px, py = x(point.x), y(point.y)
        size = 3.4 if series.joined else 8 if series.strong else 4.6
        parts.append(
            Markup(
                '<path class="mark {}" d="{}" transform="translate({} {}) scale({})"><title>{}</title></path>'
            ).format(look, SHAPES[colour], px, py, size, point.tip)
        )
        if point.low is not None and point.high is not None:
            parts.append(
                Markup('<line class="line {}" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
                    look, px, px, y(point.low), y(point.high)
                )
            )
    return Markup("").join(parts)


def _axes(x: Scale, y: Scale, x_label: str, y_label: str) -> Markup:
    parts = []
    bottom, right = HEIGHT - BOTTOM, x.stop
    for tick in y.ticks():
        parts.append(
            Markup(
                '<line class="grid" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
                '<text class="tick" x="{3}" y="{4}" text-anchor="end">{5}</text>'
            ).format(LEFT, right, y(tick), LEFT - 8, y(tick) + 4, number(tick))
        )
    for tick in x.ticks():
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                x(tick), bottom + 18, number(tick)
            )
        )
    middle = (TOP + bottom) / 2
    parts.append(
        Markup(
            '<line class="axis" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
            '<text class="axis-name" x="{3}" y="{4}" text-anchor="middle">{5}</text>'
            '<text class="axis-name" transform="translate(14 {6}) rotate(-90)" text-anchor="middle">{7}</text>'
        ).format(LEFT, right, bottom, (LEFT + right) / 2, HEIGHT - 6, x_label, middle, y_label)
    )
    return Markup("").join(parts)


def _limit(limit: tuple[str, float] | None, x: Scale, y: Scale) -> Markup:
    if limit is None:
        return Markup("")
    name, value = limit
    return Markup(
        '<line class="limit" x1="{0}" x2="{1}" y1="{2}" y2="{2}"/>'
        '<text class="limit-name" x="{1}" y="{3}" text-anchor="end">{4}</text>'
    ).format(LEFT, x.stop, y(value), y(value) - 6, name)


def _svg(body: Sequence[Markup], *, title: str, width: int, height: int) -> Markup:
    return Markup(
        '<div class="scroll"><svg class="chart{}" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></div>'
    ).format(" whole" if width > HALF_WIDTH else "", width, height, title, Markup("").join(body))


def _legend(named: Sequence[tuple[int, Series]]) -> Markup:
    entries = (
        Markup(
            '<span><svg viewBox="-1.3 -1.3 2.6 2.6" aria-hidden="true"><path class="mark {}" d="{}"/></svg>{}</span>'
        ).format(series.kind or f"s{colour}", SHAPES[colour], series.name)
        for colour, series in named
    )
    return Markup('<p class="legend">{}</p>').format(Markup("").join(entries))


def _span(values: Sequence[float], *, room: float = 0.0) -> tuple[float, float]:
    """Lowest and highest value, never equal, with `room` added above."""
    low, high = min(values), max(values)
    if high - low < NOTHING:
        low, high = (low - 1, high + 1) if low <= 0 else (low * 0.5, high * 1.5)
    return low, high + (high - low) * room


def _round_numbers(low: float, high: float) -> list[float]:
    raw = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def number(value: float) -> str:
    """A tick: `0.0005`, `2·10⁻⁵`, `12 000`."""
    if abs(value) > NOTHING and (abs(value) < 0.99e-4 or abs(value) >= 1e6):
        power = math.floor(math.log10(abs(value)) + 1e-9)
        first = f"{value / 10.0**power:.1f}".removesuffix(".0")
        return f"{'' if first == '1' else f'{first}·'}{power_of_ten(power)}"
    return f"{value:g}" if abs(value) < 1e4 else f"{value:,.0f}".replace(",", " ")
