"""The flags of a wish (load, limits, cost), which `plan` and `ship` both take, as one wish."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from bitwright.api.decision import wish_of

if TYPE_CHECKING:
    from bitwright.planner.wish import Wish

WISHES = (
    "workload",
    "prompt_tokens",
    "output_tokens",
    "shared_prefix",
    "concurrency",
    "arrivals",
    "ttft",
    "user_speed",
    "throughput",
    "floor",
    "aim",
    "price",
)


def wish_in(context: typer.Context) -> Wish:
    """What the command line says, over what its `--wish` file says. Raises as `api.decision.wish_of` does."""
    given = context.params
    said = {name: given[name] for name in WISHES}
    return wish_of(given["wish"], **said, engine=tuple(given["engine"] or ()), kv_cache=given["served_cache"])
