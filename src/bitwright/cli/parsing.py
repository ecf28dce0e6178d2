"""Words of the command line to values."""

from __future__ import annotations

from collections.abc import Sequence

from bitwright.core.errors import UsageError
from bitwright.core.plan import Override
from bitwright.core.units import parse_bytes

CHANNEL = "channel"
UNITS = {"s": 1, "m": 60, "h": 3600}  # seconds


def overrides_of(types: Sequence[str] | None, keep: Sequence[str] | None) -> tuple[str | None, tuple[Override, ...]]:
    """The type of the whole file, and the wishes for some tensors: `--type` with and without `PATTERN=`, `--keep`."""
    whole = [text for text in types or () if "=" not in text]
    if len(whole) > 1:
        raise UsageError(
            f"--type {whole[0]} and --type {whole[1]} are both for the whole file",
            hint="give one of them, or a pattern: --type '*.down_proj=Q6_K'",
        )
    found = []
    for text in types or ():
        pattern, equals, kind = text.rpartition("=")  # a regular expression may hold one of its own
        if equals and not (pattern and kind):
            raise UsageError(f"--type {text} lacks a pattern or a type", hint="write --type '*.down_proj=Q6_K'")
        if equals:
            found.append(Override(pattern=pattern, type=kind))
    kept = [Override(pattern=pattern) for pattern in keep or ()]
    return (whole[0] if whole else None), (*found, *kept)


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


def seconds_of(text: str) -> float:
    """`90s`, `10m`, `2h` or a plain number of seconds."""
    number, unit = (text[:-1], text[-1]) if text and text[-1] in UNITS else (text, "s")
    try:
        seconds = float(number) * UNITS[unit]
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--budget `{text}` is no time", hint="write --budget 90s, 10m or 2h")
    return seconds
