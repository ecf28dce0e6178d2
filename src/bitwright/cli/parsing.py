"""Words of the command line to values."""

from __future__ import annotations

from bitwright.core.errors import UsageError

CHANNEL = "channel"


def group_size_of(text: str) -> int | None:
    """`channel` or a number. Which numbers are served is for the planner to say."""
    if text == CHANNEL:
        return None
    if not text.isdigit():
        raise UsageError(
            f"group size `{text}` is neither a number nor `{CHANNEL}`", hint="use --group-size 128 or channel"
        )
    return int(text)
