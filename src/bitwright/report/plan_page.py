"""A plan as one HTML page, made before anything is: the answer, the ways it was chosen from, and why.

Like the report it stands alone: no script, no request, light and dark.
Not here: the words (planner/explain.py), the dots (pareto.py), the page of an artifact that was made (html.py).
"""

from __future__ import annotations

from bitwright.core.explanation import Explanation
from bitwright.core.plan import Plan
from bitwright.report import pareto
from bitwright.report.html import copyable, environment


def render_plan(plan: Plan, told: Explanation) -> str:
    """The whole page."""
    return environment().get_template("plan.html.j2").render(
        plan=plan, told=told, price_chart=pareto.price_chart(plan), time_chart=pareto.time_chart(plan),
        launch=copyable(told.launch),
    )  # fmt: skip
