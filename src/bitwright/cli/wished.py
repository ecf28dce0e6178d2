"""The flags of a wish (load, limits, cost), which `plan` and `ship` both take, as one wish."""

from __future__ import annotations

from pathlib import Path
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


def wish_in(command: typer.Context) -> Wish:
    """What the command line says, over what its `--wish` file says. Raises as `api.decision.wish_of` does."""
    given = command.params
    said = {name: given[name] for name in WISHES}
    return wish_of(path_of(given["wish"]), **said, engine=tuple(given["engine"] or ()), kv_cache=given["served_cache"])


def path_of(word: str | None) -> Path | None:
    """A path among a command's parameters, where it is still a word."""
    return None if word is None else Path(word)
