"""The page that puts artifacts in order."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import sample_records as sample
from test_html import HOSTILE, Page

from bitwright.api.comparison import Judged, compared
from bitwright.cli.comparing import print_comparison
from bitwright.core.comparison import ComparisonRecord
from bitwright.core.records import Verdict
from bitwright.report.compare_page import render_comparison
from bitwright.report.strips import Strips


def judged(name: str, factor: float, size: int, verdict: Verdict = "PASS", shift: float = 0.0) -> Judged:
    record = sample.validation(verdict, artifact=f"out/{name}", artifact_bytes=size)
    texts = tuple(
        msgspec.structs.replace(
            text, window_kl=tuple(value * factor + shift * (-1) ** at for at, value in enumerate(text.window_kl))
        )
        for text in record.texts
    )
    record = msgspec.structs.replace(record, texts=texts)

    return Judged(name=name, place=Path("out") / name, format="gguf", record=record, made=None)


def comparison(*more: Judged) -> ComparisonRecord:
    some = [
        judged("wide-Q4_K_M.gguf", 1.0, 145_400_000),
        judged("wide-Q8_0.gguf", 0.05, 243_000_000),
        judged("wide-Q6_K.gguf", 0.052, 188_000_000, shift=0.004),
        judged("wide-Q2_K.gguf", 6.0, 92_000_000, "FAIL"),
        *more,
    ]
    return compared(some, command="bitwright compare a b", seconds=12.0)


def test_what_to_take_comes_first() -> None:
    words = Page(render_comparison(comparison())).words
    assert "Take wide-Q4_K_M.gguf (138.7 MiB): it is the smallest of 3 that pass for chat." in words[:400]
    assert "wide-Q8_0.gguf and wide-Q6_K.gguf are closest to the original, and cannot be told apart" in words


def test_those_that_cannot_be_told_apart_share_a_number() -> None:
    found = comparison()
    assert [(entry.name, entry.group) for entry in found.entries] == [
        ("wide-Q8_0.gguf", 1), ("wide-Q6_K.gguf", 1), ("wide-Q4_K_M.gguf", 2), ("wide-Q2_K.gguf", 3),
    ]  # fmt: skip
    assert len(found.pairs) == 6


def test_one_without_numbers_stands_last() -> None:
    record = sample.validation("FAIL", texts=(), gates=(), artifact="out/broken", artifact_bytes=1)

    found = comparison(Judged(name="broken", place=Path("broken"), format="gguf", record=record, made=None))
    assert (found.entries[-1].name, found.entries[-1].group) == ("broken", 4)
    assert "broken gave logits that are not finite" in Page(render_comparison(found)).words


def test_hostile_names_stay_text() -> None:
    html = render_comparison(comparison(judged(HOSTILE, 2.0, 150_000_000)))
    page = Page(html)
    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)


@pytest.mark.parametrize(("values", "logarithmic"), [([0.01, 0.02], False), ([0.001, 0.5], True), ([0.0, 0.4], False)])
def test_strips_share_an_axis(values: list[float], logarithmic: bool) -> None:
    strips = Strips(values, limit=0.1)
    assert ("logarithmic" in strips.axis("nats")) == logarithmic
    assert strips.strip(values[0], values[0], values[1], said="x").count("<title>") == 1


def test_in_a_terminal_of_80_columns_it_stays_a_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_comparison(comparison(judged("wide-our-w4a16-balanced", 2.0, 230_000_000, "INCONCLUSIVE")))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:3] == ["artifact", "verdict", "size"] for line in lines)


def test_what_did_not_pass_is_told_with_its_figure() -> None:
    words = Page(render_comparison(comparison())).words
    assert "mean KL on python-source is 0.310 (0.279 to 0.341) nats per token, the limit is 0.1" in words
