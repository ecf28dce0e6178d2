"""What every long command does first: show what it will take, and stop there when that is all that was asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.cli import render

if TYPE_CHECKING:
    from bitwright.core.explanation import Explanation
    from bitwright.core.preflight import Preflight


def announce(found: Preflight, *, dry_run: bool, json: bool, quiet: bool, told: Explanation | None = None) -> bool:
    """Whether to stop: after a dry run, whose data it is. Otherwise a few lines on stderr, none under `json`.

    `told` is the plan, where there is one that is worth showing.
    """
    if not dry_run:
        if not (json or quiet):
            render.print_preflight(found, whole=False)
        return False
    if json:
        render.print_json(found)
    elif told is not None:
        render.print_dry_run(told, found)
    else:
        render.print_preflight(found, whole=True)
    return True
