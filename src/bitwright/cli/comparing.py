"""Artifacts in order, on a terminal: what to take, one row each, and who cannot be told apart."""

from __future__ import annotations

from bitwright.cli.screen import screen
from bitwright.core.comparison import ComparisonRecord, Entry
from bitwright.core.units import format_bytes
from bitwright.report.numbers import span


def print_comparison(found: ComparisonRecord) -> None:
    """The advice, the table, the order in words."""
    page = screen()
    page.line(found.advice, "bold")
    page.table(
        ("", "artifact", "verdict", "size", "memory", "mean KL (95 % interval)", "same top token"),
        [_row(entry) for entry in found.entries],
    )
    page.line()
    for sentence in found.said:
        page.line(sentence, margin=2)
    for entry in found.entries:
        if entry.failed:
            page.line(f"{entry.name}: {entry.verdict}: {'; '.join(entry.failed)}", margin=2)
    for note in found.notes:
        page.line(f"note: {note}", margin=2)


def _row(entry: Entry) -> tuple[str, ...]:
    kl = entry.kl_mean
    return (
        str(entry.group),
        entry.name,
        entry.verdict,
        format_bytes(entry.bytes),
        "" if entry.memory_bytes is None else format_bytes(entry.memory_bytes),
        "none" if kl is None else span(kl),
        "" if entry.top1_agreement is None else f"{entry.top1_agreement:.1%}",
    )
