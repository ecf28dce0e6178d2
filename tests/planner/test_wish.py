"""Wishes of flags and files, and the targets that they make."""

from __future__ import annotations

from pathlib import Path

import pytest

from bitwright.core.errors import InputError, UsageError
from bitwright.facts.hardware import find_device
from bitwright.planner.wish import Wish, check_wish, read_wish, said_wish, target_of


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wish.yaml"
    path.write_text("workload: rag\nconcurrency: 32\nttft: 0.5\nengine: [vllm]\n")
    both = said_wish(concurrency=8, aim="cost").over(read_wish(path))
    assert both == Wish(workload="rag", concurrency=8, ttft=0.5, engine=("vllm",), aim="cost")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("concurency: 8\n", UsageError, "unknown key `concurency`"),
        ("concurrency: many\n", UsageError, "Expected `int"),
        ("workload: chatting\n", UsageError, "workload"),
        ("- 1\n", InputError, "holds no keys"),
        ("a: [\n", InputError, "is not YAML"),
    ],
)
def test_a_file_that_cannot_be_is_refused(tmp_path: Path, text: str, error: type[Exception], words: str) -> None:
    path = tmp_path / "wish.yaml"
    path.write_text(text)
    with pytest.raises(error, match=words):
        read_wish(path)
    with pytest.raises(InputError):
        read_wish(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "said", [{"ttft": 0.0}, {"user_speed": -1.0}, {"price": float("nan")}, {"floor": -0.1}, {"concurrency": 0}]
)
def test_numbers_that_are_no_limits_are_refused(said: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        check_wish(Wish(**said))  # type: ignore[arg-type]


def test_unknown_words_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="unknown workload `chatt`"):
        said_wish(workload="chatt")
    with pytest.raises(UsageError, match="unknown aim `costs`"):
        said_wish(aim="costs")


def test_what_is_left_out_is_filled_in() -> None:
    gpu, cpu = find_device("a100-80-sxm"), find_device("cpu-avx2")
    usual = target_of(Wish(), gpu, use_case="chat", context=4096)
    assert usual.workload.concurrency > 1
    assert target_of(Wish(), cpu, use_case="chat", context=4096).workload.concurrency == 1
    assert usual.floor.perplexity_delta == 0.3
    asked = target_of(Wish(floor=0.03, prompt_tokens=100), gpu, use_case="chat", context=4096)
    assert asked.floor.perplexity_delta == 0.03
    assert asked.floor.kl_mean == pytest.approx(usual.floor.kl_mean / 10)
    assert asked.workload.shared_prefix_tokens <= 100
    assert target_of(Wish(prompt_tokens=9000), gpu, use_case="chat", context=4096).context >= 9000
