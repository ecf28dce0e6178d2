"""Bytes, seconds and rates as people read them. Binary prefixes for memory, never mixed with decimal ones."""

from __future__ import annotations

import re

from bitwright.core.errors import UsageError

KIB, MIB, GIB = 1024, 1024**2, 1024**3


_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?)?B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """`1.2GiB` → 1288490188, `121MB` → 121000000, a bare number is bytes. Raises `UsageError`."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"`{text}` is no size", hint="write it as 1.2GiB, 121MB or a number of bytes")
    number, prefix = found.groups()
    base = 1024 if prefix and prefix.lower().endswith("i") else 1000
    return int(float(number) * base ** (1 + "KMGT".index(prefix[0].upper()) if prefix else 0))


def format_bytes(count: int | float) -> str:
    """`1536` → `1.5 KiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.4g} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_seconds(seconds: float) -> str:
    """`75` → `1 min 15 s`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
