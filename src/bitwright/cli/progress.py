"""Progress for people: a bar with rate and time left on stderr, and nothing at all where nobody looks.

`rich` is imported when the first bar is drawn, so that short commands do not pay for it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from bitwright.core.protocols import SILENT, Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


def progress(quiet: bool) -> Progress:
    """Bars if stderr is a terminal, silence if it is not or `quiet` is set."""
    return SILENT if quiet or not sys.stderr.isatty() else TerminalProgress()


class TerminalProgress:
    """`core.protocols.Progress`, drawn by rich. Steps may nest: `stop` ends the innermost."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._tasks: list[TaskID] = []

    def start(self, label: str, total: int | None, unit: str) -> None:
        """Begin a step."""
        if self._bars is None:
            self._bars = _make_bars()
            self._bars.start()
        self._tasks.append(self._bars.add_task(label, total=total, unit=unit))

    def advance(self, count: int = 1) -> None:
        """Count work as done."""
        if self._bars is not None and self._tasks:
            self._bars.advance(self._tasks[-1], count)

    def stop(self) -> None:
        """End the innermost step; after the outermost the terminal is free again."""
        if self._bars is None:
            return
        if self._tasks:
            self._tasks.pop()
        if not self._tasks:
            self._bars.stop()
            self._bars = None

    def say(self, message: str) -> None:
        """One line above the bars."""
        console = self._bars.console if self._bars is not None else _console()
        console.print(message, highlight=False, markup=False)


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True)


def _make_bars() -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class Rate(ProgressColumn):
        """Units per second, or seconds per unit when slow."""

        def render(self, task: Task) -> Text:
            unit = task.fields.get("unit", "")
            speed = task.finished_speed or task.speed
            if not speed:
                return Text("")
            return Text(f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}")

    return RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=_console(),
    )
