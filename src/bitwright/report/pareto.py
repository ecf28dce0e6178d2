"""Ways to serve a model as dots: what each loses against what it costs, and against how long a request takes.

A way is on the front when no other loses less and costs (or takes) less. The plan's own is the first colour.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence

from markupsafe import Markup

from bitwright.core.plan import Plan
from bitwright.core.ranking import SIXTEEN_BIT, Option, engine_words
from bitwright.core.units import GIB
from bitwright.report.charts import Point, Series, chart

LOSS = "expected rise of perplexity"
NONE = 3.0  # a way that loses nothing is drawn so many times below the least loss: a logarithm has no zero


@dataclasses.dataclass(frozen=True, slots=True)
class Dot:
    """A way: along (dollars, bytes or seconds), its loss, and what it is."""

    along: float
    loss: float
    option: Option
    name: str = ""


def price_chart(plan: Plan) -> Markup:
    """Loss against dollars for a million tokens, or where there are no prices against memory of all devices."""
    options = () if plan.ranking is None else plan.ranking.options
    priced = [
        Dot(entry.cost.dollars_per_million_tokens.expected, _loss(entry), entry) for entry in options if entry.cost
    ]
    if priced:
        return _drawn(plan, priced, "Quality against cost", "dollars for a million generated tokens", "$")
    held = [Dot(entry.memory.total.expected * entry.devices / GIB, _loss(entry), entry) for entry in options]
    return _drawn(plan, held, "Quality against memory", "memory of all devices (GiB)", "")


def time_chart(plan: Plan) -> Markup:
    """Loss against the seconds of a whole request."""
    if plan.ranking is None or plan.target is None:
        return Markup("")
    dots = []
    for entry in plan.ranking.options:
        if entry.speed is not None:
            writing = plan.target.workload.output_tokens / entry.speed.user_tokens_per_second.expected
            dots.append(Dot(entry.speed.ttft_seconds.expected + writing, _loss(entry), entry))
    return _drawn(plan, dots, "Quality against time", "seconds of a whole request", "")


def front(dots: Sequence[Dot]) -> list[Dot]:
    """Those that no other one beats in both."""
    return [
        dot for dot in dots
        if not any(
            other.along <= dot.along and other.loss <= dot.loss and (other.along, other.loss) != (dot.along, dot.loss)
            for other in dots
        )
    ]  # fmt: skip


def _drawn(plan: Plan, dots: Sequence[Dot], title: str, x_label: str, unit: str) -> Markup:
    losses = [dot.loss for dot in dots if dot.loss > 0]
    if len(dots) < 2 or not losses or plan.target is None:
        return Markup("")
    least, floor, own = min(losses) / NONE, plan.target.floor, plan.way
    held = _merged(dots, own)
    ahead = front(held)

    def point(dot: Dot) -> Point:
        rise = dot.option.quality.perplexity_delta
        tip = f"{dot.name}: {unit}{dot.along:.3g}, perplexity +{rise.expected:.2g} ({rise.low:.2g} to {rise.high:.2g})"
        return Point(x=dot.along, y=dot.loss or least, tip=tip, label=dot.name if dot.loss else f"{dot.name}: no loss")

    groups = (
        ("planned", [dot for dot in held if dot.option is own]),
        ("not beaten in both", [dot for dot in ahead if dot.option is not own]),
        ("beaten in both by another", [dot for dot in held if dot not in ahead and dot.option is not own]),
    )
    series = [
        Series(name=name, points=tuple(map(point, group)), joined=False, strong=name == "planned")
        for name, group in groups
    ]
    return chart(
        series, title=title, x_label=x_label, y_label=f"{LOSS} (log)", log_y=True, x_span=_reach(held),
        limit=(f"{floor.use_case} tolerates {floor.perplexity_delta:g}", floor.perplexity_delta),
    )  # fmt: skip


def _merged(dots: Sequence[Dot], own: Option | None) -> list[Dot]:
    """One dot for a type whose engines lie on each other, the plan's own before others; else engines are named."""
    places: dict[tuple[str, str], list[Dot]] = {}
    for dot in dots:
        places.setdefault((dot.option.type, f"{dot.along:.2g}"), []).append(dot)
    kept = [next((dot for dot in group if dot.option is own), group[0]) for group in places.values()]
    names = told_apart([dot.option for dot in kept])
    return [dataclasses.replace(dot, name=name) for dot, name in zip(kept, names, strict=True)]


def told_apart(options: Sequence[Option]) -> list[str]:
    """A name for each that no other has: its type, and of what differs among those of the type as little as is needed.

    Two that differ in nothing that is written here keep one name.
    """
    names = [option.type for option in options]
    for more in (_engine, _cache, _devices):
        longer = [name + more(option) for name, option in zip(names, options, strict=True)]
        kinds = collections.defaultdict(set)
        for name, one in zip(names, longer, strict=True):
            kinds[name].add(one)
        names = [one if len(kinds[name]) > 1 else name for name, one in zip(names, longer, strict=True)]
    return names


def _engine(option: Option) -> str:
    return f" in {engine_words(option.engine)}"


def _cache(option: Option) -> str:
    return "" if option.kv_cache == SIXTEEN_BIT else f", {option.kv_cache} cache"


def _devices(option: Option) -> str:
    spread = f" as {option.replicas} replicas" if option.replicas > 1 else ""
    return f", {option.devices} devices{spread}" if option.devices > 1 else ""


def _reach(dots: Sequence[Dot]) -> tuple[float, float]:
    """From zero, unless all lie far from it; with room at the ends."""
    low, high = min(dot.along for dot in dots), max(dot.along for dot in dots)
    room = 0.08 * (high - low) or 0.5 * high
    return (0.0 if low < high / 2 else max(low - room, 0.0)), high + room


def _loss(option: Option) -> float:
    return option.quality.perplexity_delta.expected
