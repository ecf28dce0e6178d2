"""The devices that are known: rows of hardware.toml, found by the name that a person writes or that a driver reports.

A reported name must be a row's own name, but for the maker in front and words that change nothing behind, and the
memory must be the row's: an "RTX 4090 Laptop GPU", an "RTX 3080" with 12 GB and an "H200 NVL" are other devices than
those of the rows whose names they begin with, and a device without a row is better than one with another's figures.

Not here: asking the system (hardware.py), what drivers' tools print (drivers.py).
"""

from __future__ import annotations

import functools
import re
from typing import Literal

from bitwright.core.devices import DeviceFacts, Price, Rates
from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, nearest
from bitwright.core.units import MIB
from bitwright.facts.rows import read_rows

FILE = "hardware.toml"
MEMORY_TOLERANCE = 0.12  # drivers keep some of a card's memory, systems more of a board's
WITHOUT_NAMES = ("auto", "cpu")  # targets that are no row
_MAKERS = re.compile(r"^(nvidia|amd|intel)\s+")
_MARKS = re.compile(r"\((r|tm|mcm)\)")
# What may follow a known name: mounting, virtual functions, what sort of thing it is
_IDLE_WORDS = frozenset({"oam", "ac", "mba", "vf", "hf", "graphics", "processor"})


class HardwareRow(Record, frozen=True, kw_only=True):
    """One row of hardware.toml; units are in its head."""

    id: str
    aliases: tuple[str, ...] = ()
    name: str
    vendor: str = ""
    architecture: str
    kind: Literal["cpu", "gpu"]
    memory_mib: int
    unified: bool = False
    bandwidth_gb_s: float
    compute_capability: str | None = None
    rates: Rates | None = None
    link_gb_s: float | None = None
    reported_names: tuple[str, ...]
    cores: int | None = None
    price: Price | None = None
    note: str = ""
    confidence: Literal["high", "medium", "low"]
    source: str
    date: str


@functools.cache
def hardware_rows() -> dict[str, HardwareRow]:
    """The table, by id."""
    return {row.id: row for row in read_rows(FILE, "device", HardwareRow)}


def row_named(name: str) -> HardwareRow:
    """The row of an id or alias. Raises `UsageError` with the candidates for a name that is several devices, and with
    the nearest name for an unknown one."""
    rows = hardware_rows()
    by_alias = {alias: row for row in rows.values() for alias in row.aliases}
    if name in rows or name in by_alias:
        return rows.get(name) or by_alias[name]
    kin = [row for row in rows if row.startswith(f"{name}-")]
    if kin:
        raise UsageError(f"`{name}` may be one of {len(kin)} devices", hint=f"write {' or '.join(kin)}")
    known = [*WITHOUT_NAMES, *rows, *by_alias]
    longer = next((full for full in known if name and full.startswith(name)), name)
    listing = "`auto` is this machine, `cpu` its processor; `bitwright facts hardware` lists all others"
    raise UsageError(f"unknown target `{name}`", hint=nearest(longer, known, listing))


def row_reported_as(name: str, memory_mib: int | None = None, cores: int | None = None) -> HardwareRow | None:
    """The row of a device that reports this name, and this memory if any; `None` where no row is surely that device.

    `cores` of the processor tell Apple's chips of one name apart.
    """
    words = _words(name)
    known = sorted(
        ((len(own), row) for row in hardware_rows().values() for own in map(_words, row.reported_names)
         if words[: len(own)] == own and _IDLE_WORDS.issuperset(words[len(own) :])),
        key=lambda pair: -pair[0],
    )  # fmt: skip
    fitting = (row for _, row in known if row.cores in (None, cores) and _has(row, memory_mib))
    return next(fitting, None)


def device_of(row: HardwareRow, count: int = 1) -> DeviceFacts:
    """The facts of `count` devices of a row."""
    return DeviceFacts(
        name=row.name,
        kind=row.kind,
        memory_bytes=row.memory_mib * MIB,
        bandwidth_gb_s=row.bandwidth_gb_s,
        compute_capability=row.compute_capability,
        count=count,
        source=f"{row.source} ({row.date})",
        id=row.id,
        vendor=row.vendor,
        architecture=row.architecture,
        rates=row.rates,
        link_gb_s=row.link_gb_s,
        price=row.price,
    )


def _words(name: str) -> list[str]:
    return _MAKERS.sub("", _MARKS.sub("", name.casefold())).split()


def _has(row: HardwareRow, memory_mib: int | None) -> bool:
    """Whether the memory may be the row's; Apple sells every chip with several."""
    if memory_mib is None or row.vendor == "Apple":
        return True
    return abs(memory_mib - row.memory_mib) <= MEMORY_TOLERANCE * row.memory_mib
