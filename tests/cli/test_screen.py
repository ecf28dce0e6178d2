"""What people see: nothing wider than the terminal, nothing lost, commands that can be copied."""

from __future__ import annotations

import io
import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.cli.screen import WIDE, Screen, screen
from bitwright.facts.catalogue import catalogue
from bitwright.facts.device_rows import hardware_rows
from command_line import run_main

Capture = pytest.CaptureFixture[str]
WORDS = st.text("abcdefgh0123456789$+.,/-_", min_size=1, max_size=30)
CELLS = st.lists(WORDS, max_size=5).map(" ".join)
PLANS = (
    ("llama-3.1-70b", "--target", "h100-sxm:4", "--concurrency", "64"),
    ("llama-3.1-8b", "--target", "rtx4090"),
    ("mixtral-8x7b", "--target", "a100-80-sxm:2", "--engine", "vllm", "--engine", "sglang"),
    ("qwen2.5-vl-7b", "--target", "l40s", "--floor", "0.05"),
    ("llama-3.1-8b", "--target", "cpu-avx2", "--workload", "rag"),
)


def of_width(width: int) -> tuple[Screen, io.StringIO]:
    stream = io.StringIO()
    return Screen(stream=stream, width=width, breaks=True, colour=False), stream


@given(st.lists(st.tuples(CELLS, CELLS, CELLS, CELLS), min_size=1, max_size=5), st.integers(40, 120), st.booleans())
def test_a_table_stays_within_its_width_and_loses_nothing(rows: list[tuple[str, ...]], width: int, sheds: bool) -> None:
    page, stream = of_width(width)
    page.table(("one", "two", "three", "four"), rows, sheds=sheds)
    text = stream.getvalue()
    assert all(len(line) <= width for line in text.splitlines())
    if not sheds:
        for sign in "abcdefgh0123456789":
            assert text.count(sign) >= sum(cell.count(sign) for row in rows for cell in row)


def test_columns_are_left_out_from_the_right_and_named() -> None:
    page, stream = of_width(30)
    page.table(("name", "size", "why"), [("first", "12 GiB", "a sentence that is long")], sheds=True)
    assert stream.getvalue().splitlines()[1:3] == ["name     size", "first  12 GiB"]
    assert "not shown at this width: why" in stream.getvalue()


@given(st.lists(WORDS | st.just("{artifact}"), min_size=1, max_size=20), st.integers(60, 120))
def test_a_command_can_be_copied(words: list[str], width: int) -> None:
    page, stream = of_width(width)
    page.command(words)
    assert all(len(line) <= width for line in stream.getvalue().splitlines())
    assert shlex.split(stream.getvalue().replace("\\\n", " ")) == words


def test_what_would_move_the_cursor_is_not_written() -> None:
    page, stream = of_width(80)
    page.line("a\x1b[2Jb")
    page.pairs([("key\r", "value\x07")])
    page.table(("head",), [("cell\x1b]0;title\x07",)])
    assert not any(sign in stream.getvalue() for sign in "\x1b\r\x07")


def test_width_and_colour_are_those_of_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    pipe, terminal = screen(io.StringIO()), screen(Terminal())
    assert (pipe.width, pipe.breaks, pipe.colour) == (WIDE, False, False)
    assert (terminal.width, terminal.breaks, terminal.colour) == (80, True, True)  # it does not say how wide it is
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")
    assert (screen(Terminal()).width, screen(Terminal()).colour) == (100, False)


@pytest.mark.parametrize("words", PLANS, ids=lambda words: words[0])
@pytest.mark.parametrize("width", [80, 120])
def test_a_plan_fits_the_terminal_and_begins_with_the_answer(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], width: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    answer = run_main(capsys, "plan", *words)
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith(f"Serve {words[0]} as ")
    assert sum(line.startswith("* ") and "the answer" not in line for line in lines) == 1
    head = next(line for line in lines if line.strip().startswith("type"))
    assert "GiB" in lines[lines.index(head) + 2] or "GiB" in lines[lines.index(head) + 3]  # not broken in two


def test_the_launch_line_is_the_plans(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    said = run_main(capsys, "plan", *PLANS[0]).out.partition("serve it with")[2].partition("\n")[2]
    shown = shlex.split(said.partition("\n\n")[0].replace("\\\n", " "))
    assert shown == json.loads(run_main(capsys, "plan", *PLANS[0], "--json").out)["launch"]


def test_explain_tells_every_reason_and_refusal(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    words = ("plan", *PLANS[0], "--user-speed", "20")
    plan = json.loads(run_main(capsys, *words, "--json").out)
    said = " ".join(run_main(capsys, *words, "--explain").out.split())
    for row in (*plan["reasons"], *plan["ranking"]["refused"]):
        assert all(word in said for word in (*row["because"].split(), *row["source"].split()))


@pytest.mark.parametrize(("topic", "names"), [("hardware", hardware_rows), ("models", catalogue)])
def test_a_list_of_facts_has_one_line_a_row_at_80_columns(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, topic: str, names: object
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run_main(capsys, "facts", topic).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert callable(names)
    assert len(lines) <= len(names()) + 6
