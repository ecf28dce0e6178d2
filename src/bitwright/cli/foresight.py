"""A look ahead in words, one row a question: how long, how much memory, how much disk, what stays, who runs it.

Not here: the table itself (render.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from bitwright.core.preflight import EngineFit, Preflight

HOW = {
    "computes": "computes in it",
    "widens": "widens weights to 16 bits in the kernel",
    "emulates": "saves memory, not time",
    "expands": "expands weights to floats as it loads them",
    "fails": "does not run it",
    "unknown": "not known",
}
SHOWN = 3  # names of a list


def preflight_rows(found: Preflight, *, whole: bool) -> list[tuple[str, str]]:
    """What, value. `whole` adds what the predictions rest on."""
    time, memory, disk = found.time, found.memory, found.disk
    longest = sorted(time.parts, key=lambda part: -part.amount)[:SHOWN]
    spent = ", ".join(f"{part.what} {format_seconds(part.amount)}" for part in longest)
    took = f"{format_seconds(time.total.low)} to {format_seconds(time.total.high)}"
    threads = f"{time.threads} thread{'s' if time.threads > 1 else ''}"
    held = f"{format_bytes(memory.total.low)} to {format_bytes(memory.total.high)}"
    kinds = ", ".join(f"{part.what} {format_bytes(part.amount)}" for part in disk.parts)
    room = f"{format_bytes(disk.needed)} of {format_bytes(disk.free)} free at {disk.where}"
    rows = [
        ("time", f"{took} on {threads} ({spent})"),
        ("working memory", f"{held} of {format_bytes(memory.available)}"),
        ("disk", f"{room} ({kinds})"),
    ]
    if (device := found.device) is not None:
        there = f" of {format_bytes(device.available)}" if device.available else ""
        on_it = f"{format_bytes(device.total.low)} to {format_bytes(device.total.high)}{there}"
        rows.insert(2, (f"memory of {device.name}", f"{on_it} (counted, not measured)"))
    if whole:
        rows += [("time rests on", time.total.rests_on), ("memory rests on", memory.total.rests_on)]
    rows += [("stays float", f"{named(kept.tensors)}: {kept.type}, {kept.because}") for kept in found.kept]
    rows += [("rows", f"{named(odd.tensors)}: {odd.inputs} inputs, {odd.done}") for odd in found.ragged]
    if not whole:
        rows += [(fit.engine, in_words(fit)) for fit in found.engines if fit.here]
    return rows


def named(tensors: tuple[str, ...]) -> str:
    """One name, or how many and which kinds."""
    if len(tensors) == 1:
        return tensors[0]
    kinds = list(dict.fromkeys(name.rsplit(".", 2)[-2] for name in tensors if "." in name))
    listed = ", ".join(kinds[:SHOWN]) + (", …" if len(kinds) > SHOWN else "")
    return f"{len(tensors)} tensors ({listed})"


def in_words(fit: EngineFit) -> str:
    """One engine on this device."""
    said = [f"{fit.scheme} on {fit.devices}: {fit.kernel or 'no kernel'}, {HOW[fit.how]}", fit.because]
    return "; ".join(part for part in said if part)
