"""Where text lands: lines, pairs and tables, laid out for the width that is there.

In a terminal nothing is wider than the terminal: cells wrap between words. A table that does not fit even so leaves out
columns from the right and says which, where its rows can be asked for one by one; otherwise each row becomes a small
list. A pipe takes tables up to `WIDE` and lines as they come. `COLUMNS` goes before both.

By hand rather than by `rich`, which costs 35 ms at the start of a command that answers in 200, and cannot leave out a
column. Colour repeats what a word already says, so nothing is lost under NO_COLOR.

Not here: what is said (render.py), bars (progress.py).
"""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

WIDE = 240
USUAL = 80  # where a terminal does not say
GAP = 2
STYLES = {"bold": "1", "yellow": "33", "bold green": "1;32", "bold red": "1;31", "bold yellow": "1;33"}
JOINT = re.compile(r"(?<=[/,_-])")  # after these a long word may break
LONG = 20  # a word that may break where that makes a column fit
NUMBER = re.compile(r"[+~$]?\d[\d.,]*[BM%]?([ -]\S+)?")

Row = Sequence[str]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Screen:
    """A stream, how wide it is, and whether it takes colour. Lines of a pipe are not broken (`breaks`)."""

    stream: TextIO
    width: int
    breaks: bool
    colour: bool

    def line(self, text: str = "", style: str = "", margin: int = 0) -> None:
        """One paragraph; lines after the first are set in by `margin`."""
        text = _plain(text)
        for part in _broken(text, self.width, " " * margin) if self.breaks else [text]:
            self._write(self._painted(part, style))

    def command(self, words: Sequence[str]) -> None:
        """A command that can be copied as it stands: in one line where nothing is broken, else continued by `\\`."""
        quoted = [word if "{" in word else shlex.quote(word) for word in words]  # {artifact} is for people to replace
        line = f"  {_plain(quoted[0])}"
        for word in map(_plain, quoted[1:]):
            if self.breaks and len(line) + len(word) + 3 > self.width:  # a space before, a space and `\` behind
                self._write(f"{line} \\")
                line = f"   {word}"
            else:
                line += f" {word}"
        self._write(line)

    def pairs(self, rows: Iterable[tuple[str, str]]) -> None:
        """What and value, values under each other."""
        held = list(rows)
        left = max((len(what) for what, _ in held), default=0)
        for what, value in held:
            shown = _plain(what)
            for part in _broken(_plain(value), max(self.width - left - GAP, LONG)):
                self._write(f"{self._painted(shown.ljust(left), 'bold')}{' ' * GAP}{part}")
                shown = ""

    def table(self, head: Row, rows: Iterable[Row], *, sheds: bool = False) -> None:
        """Rows under a head, after an empty line; nothing without rows. `sheds`: columns may be left out."""
        body = [tuple(map(_plain, row)) for row in rows]
        if not body:
            return
        self._write("")
        shown = len(head)
        while sheds and shown > 1 and _total(_natural(head[:shown], body)) > self.width:
            shown -= 1
        natural = _natural(head[:shown], body)
        whole = [max(size, len(title)) for size, title in zip(natural, head, strict=False)]
        natural = whole if _total(whole) <= self.width else natural  # heads break where room is scarce
        right = [_is_number(body, column) for column in range(shown)]
        least = [w if n else m for w, m, n in zip(natural, _least(head[:shown], body), right, strict=True)]
        widths = _fitted(natural, least, self.width)
        if widths is None:
            self._stacked(head, body)
            return
        self._row(head[:shown], widths, right, style="bold")
        for row in body:
            self._row(row[:shown], widths, right)
        if shown < len(head):
            left_out = ", ".join(title for title in head[shown:] if title)
            self.line(f"not shown at this width: {left_out}; a NAME or --json shows them")

    def _row(self, row: Row, widths: Sequence[int], right: Sequence[bool], style: str = "") -> None:
        cells = [_broken(text, width) for text, width in zip(row, widths, strict=True)]
        for index in range(max(map(len, cells))):
            parts = [
                (cell[index] if index < len(cell) else "").rjust(width) if flush
                else (cell[index] if index < len(cell) else "").ljust(width)
                for cell, width, flush in zip(cells, widths, right, strict=True)
            ]  # fmt: skip
            self._write(self._painted((" " * GAP).join(parts).rstrip(), style))

    def _stacked(self, head: Row, body: Sequence[Row]) -> None:
        """Each row as a list: its first cell, and under it what the others hold."""
        for row in body:
            self.line(row[0], "bold", 2)
            for title, text in zip(head[1:], row[1:], strict=True):
                if text:
                    self.line(f"  {title}: {text}" if title else f"  {text}", margin=4)

    def _painted(self, text: str, style: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if style and self.colour and text.strip() else text

    def _write(self, text: str) -> None:
        self.stream.write(f"{text}\n")


def screen(stream: TextIO | None = None) -> Screen:
    """The screen of stdout, or of another stream."""
    stream = stream or sys.stdout
    terminal = stream.isatty()
    given = os.environ.get("COLUMNS", "")
    width = int(given) if given.isdigit() and int(given) > 0 else _terminal_width(stream) if terminal else WIDE
    colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Screen(stream=stream, width=width, breaks=terminal or given.isdigit(), colour=colour)


def _terminal_width(stream: TextIO) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns or USUAL
    except (OSError, ValueError):
        return USUAL


def _plain(text: str) -> str:
    """Names and tokens are not ours: what would move the cursor becomes a space."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def _broken(text: str, width: int, margin: str = "") -> list[str]:
    """Lines of at most `width`, broken between words; a word that is longer breaks where it has joints."""
    if len(text) <= width and "\n" not in text:
        return [text]
    lines = []
    for paragraph in text.split("\n"):
        line = paragraph[: len(paragraph) - len(paragraph.lstrip())]
        for word in paragraph.split():
            for index, piece in enumerate(_pieces(word, max(width - len(margin), 1))):
                space = " " if index == 0 and line.strip() else ""
                if line.strip() and len(line) + len(space) + len(piece) > width:
                    lines.append(line)
                    line = margin + piece
                else:
                    line += space + piece
        lines.append(line)
    return lines


def _pieces(word: str, width: int) -> list[str]:
    """A word, or the parts of one that is longer than `width`."""
    if len(word) <= width:
        return [word]
    return [part[start : start + width] for part in JOINT.split(word) for start in range(0, len(part), width)]


def _natural(head: Row, body: Sequence[Row]) -> list[int]:
    """Widths of columns whose cells do not break; heads do."""
    return [
        max(max(map(len, title.split()), default=0), *(len(line) for row in body for line in row[index].split("\n")))
        for index, title in enumerate(head)
    ]


def _least(head: Row, body: Sequence[Row]) -> list[int]:
    """Widths of the longest words, and of the parts of long ones."""
    words = [
        [word for text in (title, *(row[i] for row in body)) for word in text.split()] for i, title in enumerate(head)
    ]
    return [max((len(part) for word in held for part in _pieces(word, LONG)), default=0) for held in words]


def _fitted(widths: list[int], least: Sequence[int], width: int) -> list[int] | None:
    """The widest columns narrowed until the row fits; `None` where words would break."""
    widths = list(widths)
    while _total(widths) > width:
        loose = [index for index, size in enumerate(widths) if size > least[index]]
        if not loose:
            return None
        widths[max(loose, key=lambda index: widths[index])] -= 1
    return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _is_number(body: Sequence[Row], column: int) -> bool:
    """Whether a column is set flush right: figures with or without a unit, and nothing else."""
    texts = [row[column] for row in body if row[column]]
    return column > 0 and bool(texts) and all(NUMBER.fullmatch(text) for text in texts)
