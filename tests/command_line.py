"""One command line in this process: exit code, stdout, stderr."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from bitwright.cli.app import main


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command said."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines that name an error."""
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def hints(self) -> list[str]:
        """Lines that say what to do."""
        return [line for line in self.err.splitlines() if line.startswith("hint: ")]


Run = Callable[..., Answer]


def text_file(path: Path, words: int = 4000, step: int = 7919) -> Path:
    """Some plain text, long enough for a handful of short windows."""
    path.write_text(" ".join(f"word{number * step % 1000}" for number in range(words)))
    return path


def run_main(capsys: object, *words: str) -> Answer:
    """Run `bitwright WORDS`."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()  # type: ignore[attr-defined]
    return Answer(code, captured.out, captured.err)
