"""One command line in this process: exit code, stdout, stderr."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from bitwright.cli.app import main

FINAL = (".gguf", ".safetensors", "quant.json", "validation.json", "speed.json", "report.html")


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


def check(answer: Answer, code: int, *words: str) -> None:
    """The one form that every refusal takes."""
    assert "Traceback" not in answer.err, answer.err
    assert len(answer.errors) == 1, answer.err
    assert len(answer.hints) == 1, answer.err
    assert answer.code == code, answer.err
    assert answer.out == ""
    for word in words:
        assert word in answer.err, answer.err


def check_nothing_made(out: Path) -> None:
    """No file under a final name."""
    made = [path for path in out.rglob("*") if path.name.endswith(FINAL)] if out.is_dir() else []
    assert made == []
