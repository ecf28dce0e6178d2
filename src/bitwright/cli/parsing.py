"""Words of the command line to values."""

from __future__ import annotations

from bitwright.core.errors import UsageError
from bitwright.core.units import parse_bytes

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


def target_bytes(size: str | None, bits: float | None, parameters: int) -> int:
    """Bytes of the whole file, from a size or from bits per parameter; one of them is given."""
    if size is not None and bits is not None:
        raise UsageError("--target-size and --target-bpw say the same thing twice", hint="give one of them")
    if size is not None:
        return parse_bytes(size)
    assert bits is not None
    return int(bits * parameters / 8)
