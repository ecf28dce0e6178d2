"""A ranking in words: one row for each way to serve the model, and the figures of the chosen one with their intervals.

Not here: colour and width (cli/screen.py), the sentence on top (explain.py), the order (ranking.py).
"""

from __future__ import annotations

from collections.abc import Callable

from bitwright.core.intervals import Interval
from bitwright.core.plan import Plan
from bitwright.core.ranking import SIXTEEN_BIT, Option, engine_words
from bitwright.core.target import Target
from bitwright.core.units import GIB, MIB, format_bytes, format_seconds
from bitwright.planner.quality import meets_floor

COLUMNS = (
    "", "type", "devices", "memory each", "first token", "tok/s each", "tok/s in all", "$ per million", "perplexity",
    "misses",
)  # fmt: skip
SHOWN = 6  # a table is read in ten seconds


def load_words(target: Target) -> str:
    """The load that figures are for."""
    work = target.workload
    prefix = f" ({work.shared_prefix_tokens} shared)" if work.shared_prefix_tokens else ""
    requests = "one request at a time" if work.concurrency == 1 else f"{work.concurrency} requests at once"
    return f"{work.load}, {requests}, {work.prompt_tokens} tokens in{prefix}, {work.output_tokens} out"


def option_table(plan: Plan, *, whole: bool) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Head and rows, the plan's own way marked; `whole` leaves no row out. Columns that say nothing are not there."""
    if plan.ranking is None or plan.target is None:
        return (), ()
    options = plan.ranking.options
    engines = len({option.engine for option in options}) > 1
    first, own = options[:SHOWN], plan.way
    if not whole:
        options = first if own is None or own in first else (*first[:-1], own)
    rows = [_row(option, plan.target, mark="*" if option is own else "", engine=engines) for option in options]
    told = [index for index, title in enumerate(COLUMNS) if title != "devices" or plan.device.count > 1]
    told = [index for index in told if any(row[index] for row in rows)]
    return tuple(COLUMNS[index] for index in told), tuple(tuple(row[index] for index in told) for row in rows)


def refused_rows(plan: Plan) -> tuple[tuple[str, str, str], ...]:
    """What was looked at and not offered, why, and who says so."""
    refused = () if plan.ranking is None else plan.ranking.refused
    return tuple((entry.label, entry.because, entry.source) for entry in refused)


def figures(plan: Plan) -> tuple[tuple[str, str], ...]:
    """The predicted figures of the plan's own way, with intervals that shall hold four times out of five."""
    option = plan.way
    if option is None or plan.target is None:
        return ()
    rows = [("memory", _memory_words(option))]
    speed = option.speed
    if speed is not None:
        first = f"first token after {_range(speed.ttft_seconds, format_seconds)}"
        each = f"{_range(speed.user_tokens_per_second, rate)} tokens/s for each request"
        rows.append(("speed", f"{first}; {each}, {_range(speed.tokens_per_second, rate)} in all"))
    if option.cost is not None:
        dollars = _range(option.cost.dollars_per_million_tokens, _dollars)
        rows.append(("cost", f"{dollars} for a million generated tokens, prices of {option.cost.date}"))
    rise, kl, floor = option.quality.perplexity_delta, option.quality.kl_mean, plan.target.floor
    tolerated = f"{floor.use_case} tolerates +{floor.perplexity_delta:g} and {floor.kl_mean:.2g}"
    rows.append(
        ("quality", f"perplexity +{_range(rise, _short)}, KL {_range(kl, _short)}, expected, not measured; {tolerated}")
    )
    return tuple(rows)


def devices_words(option: Option, device: str) -> str:
    """`2 × H100`, and how many replicas that is."""
    if option.replicas == 1:
        return f"{option.devices} × {device}" if option.devices > 1 else device
    each = option.devices // option.replicas
    return f"{option.devices} × {device} ({option.replicas} replicas" + (f" of {each})" if each > 1 else ")")


def _row(option: Option, target: Target, *, mark: str, engine: bool) -> tuple[str, ...]:
    speed, cost = option.speed, option.cost
    label = f"{option.type} in {engine_words(option.engine)}" if engine else option.type
    if option.kv_cache != SIXTEEN_BIT:
        label += f", {option.kv_cache} cache"
    return (
        mark,
        label,
        str(option.devices)
        + (f" ({option.replicas} × {option.devices // option.replicas})" if option.replicas > 1 else ""),
        _size(option.memory.total.expected),
        format_seconds(speed.ttft_seconds.expected) if speed else "",
        rate(speed.user_tokens_per_second.expected) if speed else "",
        rate(speed.tokens_per_second.expected) if speed else "",
        _dollars(cost.dollars_per_million_tokens.expected) if cost else "",
        f"+{_short(option.quality.perplexity_delta.expected)}",
        "" if meets_floor(option.quality, target.floor) else f"{target.floor.use_case}'s floor",
    )


def _memory_words(option: Option) -> str:
    held = option.memory
    whose = f"on each of {option.devices} devices" if option.devices > 1 else "on the device"
    beside = (held.activations + held.overhead).expected
    return (
        f"{_range(held.total, _size)} of {_size(held.available)} {whose}: {_size(held.weights)} weights, "
        f"{_size(held.kv_cache)} keys and values, {_size(beside)} beside them"
    )


def _range(value: Interval, words: Callable[[float], str]) -> str:
    """`113 ms (72 to 232 ms)`: a unit that ends share is said once."""
    low, high = words(value.low), words(value.high)
    number, _, unit = low.partition(" ")
    return f"{words(value.expected)} ({number if unit and high.endswith(f' {unit}') else low} to {high})"


def rate(value: float) -> str:
    """Tokens per second in three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def _size(value: float) -> str:
    return (
        f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.0f} MiB" if value >= MIB else format_bytes(value)
    )


def _dollars(value: float) -> str:
    return f"${value:.2f}"


def _short(value: float) -> str:
    return f"{value:.2g}"
