"""A plan as one HTML page, made before anything is: the answer, the ways it was chosen from, and why.

Like the report it stands alone: no script, no request, light and dark.
Not here: the words (planner/explain.py), the dots (pareto.py), the page of an artifact that was made (html.py).
"""

from __future__ import annotations

import shlex

from bitwright.core.explanation import Explanation
from bitwright.core.plan import Plan
from bitwright.report import pareto
from bitwright.report.html import environment

ONE_LINE = 90  # characters


def render_plan(plan: Plan, told: Explanation) -> str:
    """The whole page."""
    return environment().get_template("plan.html.j2").render(
        plan=plan, told=told, price_chart=pareto.price_chart(plan), time_chart=pareto.time_chart(plan),
        launch=_copyable(told.launch),
    )  # fmt: skip


def _copyable(words: tuple[str, ...]) -> str:
    """A command as it may be pasted, with a line for each flag where it is long."""
    line = ""
    long = sum(len(word) + 1 for word in words) > ONE_LINE
    for word in words:
        shown = word if "{" in word else shlex.quote(word)
        line += f" \\\n  {shown}" if long and word.startswith("--") else f" {shown}"
    return line.lstrip()
