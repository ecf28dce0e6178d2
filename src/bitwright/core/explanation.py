"""A plan in words and rows, for whoever shows it: on a terminal, on a page.

Not here: how the words are found (planner/explain.py), how they look (cli/render.py, report/plan_page.py).
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Sentences and rows.

    `answer`: one sentence. `summary`: what, value. `reasons`: choice, because, source. `types`: type, tensors,
    parameters, bytes. `ways`: the best ways to serve the model under `columns`, for the load `load`; `all_ways` all
    under `all_columns`; the plan's own begins with `*`. `refused`: way, because, source. `launch`: words of the command
    that serves the artifact.
    """

    answer: str
    summary: tuple[tuple[str, str], ...]
    reasons: tuple[tuple[str, str, str], ...]
    types: tuple[tuple[str, int, int, int], ...]
    launch: tuple[str, ...]
    warnings: tuple[str, ...]
    load: str = ""
    columns: tuple[str, ...] = ()
    ways: tuple[tuple[str, ...], ...] = ()
    all_columns: tuple[str, ...] = ()
    all_ways: tuple[tuple[str, ...], ...] = ()
    refused: tuple[tuple[str, str, str], ...] = ()
