"""A ranking in words: one row for each way to serve the model, and the figures of the first with their intervals.

Not here: colour and width (cli/render.py), the order (ranking.py).
"""

from __future__ import annotations

from bitwright.core.intervals import Interval
from bitwright.core.plan import Plan
from bitwright.core.ranking import Option
from bitwright.core.target import Target
from bitwright.core.units import format_bytes, format_seconds

COLUMNS = ("way to serve it", "devices", "memory each", "first token", "per request", "in total", "$ per 1M", "quality")
SHOWN = 6  # a table is read in ten seconds


def load_words(target: Target) -> str:
    """The load that figures are for."""
    work = target.workload
    prefix = f" ({work.shared_prefix_tokens} shared)" if work.shared_prefix_tokens else ""
    return f"{work.load}: {work.concurrency} at once, {work.prompt_tokens} tokens in{prefix}, {work.output_tokens} out"


def option_rows(plan: Plan, *, whole: bool) -> tuple[tuple[str, ...], ...]:
    """Rows under `COLUMNS`, the plan's own way marked; `whole` leaves none out."""
    if plan.ranking is None:
        return ()
    options = plan.ranking.options if whole else plan.ranking.options[:SHOWN]
    return tuple(_row(option, chosen=is_chosen(plan, option)) for option in options)


def is_chosen(plan: Plan, option: Option) -> bool:
    """Whether the plan is made for this way."""
    return plan.type.removesuffix("-mix") == option.type and plan.engine == option.engine


def refused_rows(plan: Plan) -> tuple[tuple[str, str, str], ...]:
    """What was looked at and not offered, why, and who says so."""
    refused = () if plan.ranking is None else plan.ranking.refused
    return tuple((entry.label, entry.because, entry.source) for entry in refused)


def figures(plan: Plan) -> tuple[tuple[str, str], ...]:
    """The predicted figures of the plan's own way, with intervals that shall hold four times out of five."""
    if plan.ranking is None or plan.target is None:
        return ()
    option = next((entry for entry in plan.ranking.options if is_chosen(plan, entry)), None)
    if option is None:
        return (("load", load_words(plan.target)),)
    rows = [("load", load_words(plan.target))]
    speed = option.speed
    if speed is not None:
        each, together = _range(speed.user_tokens_per_second, _rate), _range(speed.tokens_per_second, _rate)
        rows += [
            ("first token", _range(speed.ttft_seconds, format_seconds)),
            ("speed", f"{each} for each request, {together} in total"),
        ]
    if option.cost is not None:
        dollars = _range(option.cost.dollars_per_million_tokens, _dollars)
        rows.append(("cost", f"{dollars} for a million generated tokens ({option.cost.date})"))
    rise, kl = option.quality.perplexity_delta, option.quality.kl_mean
    rows.append(("quality", f"perplexity +{_range(rise, _short)}, KL {_range(kl, _short)}: expected, not measured"))
    return tuple(rows)


def _row(option: Option, *, chosen: bool) -> tuple[str, ...]:
    speed, cost = option.speed, option.cost
    label = f"{'* ' if chosen else '  '}{option.type}, {option.engine}"
    if option.kv_cache != "16-bit":
        label += f", {option.kv_cache} cache"
    return (
        label,
        _devices(option),
        f"{format_bytes(option.memory.total.expected)}",
        format_seconds(speed.ttft_seconds.expected) if speed else "?",
        _rate(speed.user_tokens_per_second.expected) if speed else "?",
        _rate(speed.tokens_per_second.expected) if speed else "?",
        _dollars(cost.dollars_per_million_tokens.expected) if cost else "?",
        f"+{_short(option.quality.perplexity_delta.expected)} ppl",
    )


def _devices(option: Option) -> str:
    words = [f"{option.replicas} x"] if option.replicas > 1 else []
    each = option.tensor_parallel * option.pipeline_parallel
    return " ".join([*words, str(each)])


def _range(value: Interval, words: object) -> str:
    assert callable(words)
    return f"{words(value.expected)} ({words(value.low)} to {words(value.high)})"


def _rate(value: float) -> str:
    return f"{value:.3g} tok/s" if value < 1000 else f"{value:,.0f} tok/s"


def _dollars(value: float) -> str:
    return f"${value:.2f}"


def _short(value: float) -> str:
    return f"{value:.2g}"
