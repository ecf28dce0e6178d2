"""A plan in words: the answer in a sentence, rows for tables, plain lines. No colour, no width: that is the cli's.

Not here: the decisions themselves (decide.py), the ranking in words (ways.py).
"""

from __future__ import annotations

import collections
import math

from bitwright.core.explanation import Explanation
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.ranking import Option, engine_words
from bitwright.core.units import format_bytes, format_seconds
from bitwright.planner.memory import fits
from bitwright.planner.ways import (
    devices_words,
    figures,
    load_words,
    option_table,
    rate,
    refused_rows,
)

IN_MEMORY = " in memory"  # ends the choice of the reason that says whether the plan fits


def explain(plan: Plan) -> Explanation:
    """The rows of a plan; types by size, largest first."""
    types = _types(plan)
    columns, ways = option_table(plan, whole=False)
    all_columns, all_ways = option_table(plan, whole=True)
    return Explanation(
        answer=answer_sentence(plan),
        summary=(*_summary(plan), ("tensors", ", ".join(f"{n} {kind} ({format_bytes(b)})" for kind, n, _, b in types))),
        reasons=tuple((reason.choice, reason.because, reason.source) for reason in plan.reasons),
        types=types,
        launch=plan.launch,
        warnings=plan.warnings,
        load="" if plan.target is None else load_words(plan.target),
        columns=columns, ways=ways,
        all_columns=all_columns, all_ways=all_ways,
        refused=refused_rows(plan),
    )  # fmt: skip


def explain_lines(plan: Plan) -> list[str]:
    """The same as plain lines."""
    told = explain(plan)
    width = max(len(what) for what, _ in told.summary)
    lines = [told.answer, "", *(f"{what:<{width}}  {value}" for what, value in told.summary)]
    lines += ["", "serve it with", f"  {' '.join(told.launch)}", "", "why"]
    lines += [f"  {choice}: {because} [{source}]" for choice, because, source in told.reasons]
    lines += [f"warning: {warning}" for warning in told.warnings]
    return lines


def answer_sentence(plan: Plan) -> str:
    """What to do, what to expect of it, and the first reason."""
    option, model = plan.way, plan.model.path.rpartition("/")[2] or plan.model.path
    if option is None and not fits(plan.memory):
        return (
            f"{model} as {plan.type} does not fit: it needs {format_bytes(plan.memory.total)}, {plan.device.name} has "
            f"{format_bytes(plan.memory.available)} for it."
        )
    where = plan.device.name if option is None else devices_words(option, plan.device.name)
    what = f"Serve {model} as {plan.type} with {engine_words(plan.engine)} on {where}"
    expected = "" if option is None else _expected(plan, option)
    return f"{what}{expected and f': {expected}'}, because {_because(plan)}."


def _expected(plan: Plan, option: Option) -> str:
    """The figures that people ask for first."""
    if option.speed is None or plan.target is None:
        return f"about {format_bytes(option.memory.total.expected)} of memory"
    many = plan.target.workload.concurrency
    each = f" for each of {many} requests" if many > 1 else ""
    said = [
        f"about {rate(option.speed.user_tokens_per_second.expected)} tokens/s{each}",
        f"the first token after {format_seconds(option.speed.ttft_seconds.expected)}",
    ]
    if option.cost is not None:
        said.append(f"${option.cost.dollars_per_million_tokens.expected:.2f} per million tokens")
    return ", ".join(said)


def _because(plan: Plan) -> str:
    """Of a type that was taken since better ones do not fit that; else the first reason for the type."""
    for reason in plan.reasons:
        if reason.choice.endswith(IN_MEMORY) and " does not fit" in reason.because:
            return reason.because.partition(";")[0]
    first = plan.reasons[0]
    of_format = first.choice == plan.format and len(plan.reasons) > 1  # the type says more
    return (plan.reasons[1] if of_format else first).because


def _types(plan: Plan) -> tuple[tuple[str, int, int, int], ...]:
    groups: dict[str, list[TensorPlan]] = collections.defaultdict(list)
    for tensor in plan.tensors:
        groups[tensor.scheme.label].append(tensor)
    rows = (
        (label, len(held), sum(math.prod(tensor.shape) for tensor in held), sum(tensor.bytes for tensor in held))
        for label, held in groups.items()
    )
    return tuple(sorted(rows, key=lambda row: -row[3]))


def _summary(plan: Plan) -> tuple[tuple[str, str], ...]:
    model, memory = plan.model, plan.memory
    told = figures(plan) or (
        ("memory", f"{format_bytes(memory.total)} of {format_bytes(memory.available)} at {memory.context} tokens"),
    )
    count = f"{plan.device.count} × {plan.device.name}" if plan.device.count > 1 else plan.device.name
    size = (
        f"{model.parameters / 1e9:.3g} billion"
        if model.parameters >= 10**9
        else f"{model.parameters / 1e6:.1f} million"
    )
    whole = f"{model.path} ({model.architecture}), {size} parameters, {format_bytes(model.bytes)} in {model.dtype}"
    made = f"{plan.type} as {plan.format} by {plan.method} ({plan.effort}) for {plan.use_case}"
    return (
        ("model", whole),
        *([("adapter", f"{model.adapter}, merged as the model is read")] if model.adapter else []),
        ("device", count),
        ("artifact", f"{made}: {format_bytes(plan.file_bytes)}, {plan.bits_per_weight:.2f} bits per weight"),
        *told,
    )
