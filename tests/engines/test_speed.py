"""Speeds: turns are interleaved and fair; (slow) a real engine gives rates that make sense."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from bitwright.core.errors import EnvironmentFault
from bitwright.engines import speed
from bitwright.engines.speed import measure, physical_cores, random_prompt


class FakeEngine:
    """Stands for servers and their clients; logs who was asked what. Rates are taken from `script`, turn by turn."""

    log: ClassVar[list[tuple[str, dict[str, Any]]]]
    script: ClassVar[dict[str, list[tuple[float, float]]]]
    decoded: ClassVar[int | None]

    def __init__(self, path: Path, **options: Any) -> None:
        self.options = options
        self.url = f"http://{path.stem}"

    def __enter__(self) -> FakeEngine:
        return self

    def __exit__(self, *error: object) -> None: ...

    @classmethod
    def answer(cls, client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        name = client.base_url.host
        if path == "/v1/models":
            return {"data": [{"meta": {"n_vocab": 100 if name == "a" else 90}}]}
        assert body is not None
        turn = sum(1 for asked, _ in cls.log if asked == name)
        cls.log.append((name, body))
        prompt, decode = cls.script[name][turn]
        return {
            "timings": {
                "prompt_n": len(body["prompt"]),
                "predicted_n": cls.decoded or body["n_predict"],
                "prompt_per_second": prompt,
                "predicted_per_second": decode,
            }
        }


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> type[FakeEngine]:
    FakeEngine.log = []
    FakeEngine.decoded = None
    FakeEngine.script = {
        "a": [(1.0, 1.0), (10.0, 5.0), (90.0, 7.0), (20.0, 6.0)],
        "b": [(2.0, 2.0), (30.0, 8.0), (40.0, 9.0), (50.0, 1.0)],
    }
    monkeypatch.setattr(speed, "LlamaCppServer", FakeEngine)
    monkeypatch.setattr(speed, "request_json", FakeEngine.answer)
    return FakeEngine


@pytest.fixture
def files(tmp_path: Path) -> list[tuple[str, Path]]:
    (tmp_path / "a.gguf").write_bytes(b"x" * 7)
    (tmp_path / "b.gguf").write_bytes(b"x" * 9)
    return [("F16", tmp_path / "a.gguf"), ("Q4", tmp_path / "b.gguf")]


def test_turns_alternate_share_prompts_and_the_first_does_not_count(
    engine: type[FakeEngine], files: list[tuple[str, Path]]
) -> None:
    record = measure(files, prompt_tokens=5, decode_tokens=4, repeats=3, threads=2)
    assert [name for name, _ in engine.log] == ["a", "b"] * 4
    prompts = [tuple(body["prompt"]) for _, body in engine.log]
    assert prompts[0::2] == prompts[1::2], "both files get the same prompt"
    assert len(set(prompts[0::2])) == 4, "each turn has another one"
    assert all(0 <= token < 90 for prompt in prompts for token in prompt), "ids that both vocabularies have"
    assert all(body["cache_prompt"] is False and body["ignore_eos"] is True for _, body in engine.log)
    first, second = record.points
    assert (first.name, first.bytes, first.prompt_tokens_s, first.decode_tokens_s) == ("F16", 7, 20.0, 6.0)
    assert (second.name, second.bytes, second.prompt_tokens_s, second.decode_tokens_s) == ("Q4", 9, 40.0, 8.0)
    assert (first.prompt_tokens, first.decode_tokens, first.repeats, record.threads) == (5, 4, 3, 2)


def test_a_request_that_was_cut_short_is_no_measurement(
    engine: type[FakeEngine], files: list[tuple[str, Path]]
) -> None:
    engine.decoded = 3
    with pytest.raises(EnvironmentFault, match=r"processed 5 \+ 3 tokens, expected 5 \+ 4"):
        measure(files, prompt_tokens=5, decode_tokens=4)


def test_prompts_are_reproducible() -> None:
    assert random_prompt(1, 50, 1000) == random_prompt(1, 50, 1000)
    assert random_prompt(1, 50, 1000) != random_prompt(2, 50, 1000)
    assert max(random_prompt(0, 2000, 10)) == 9


def test_threads_are_at_least_one() -> None:
    assert physical_cores() >= 1


@pytest.mark.slow
def test_a_real_file_has_a_speed(demo_gguf: Path) -> None:
    # One thread: on a busy machine several would wait for each other in llama.cpp's barriers.
    record = measure([("one", demo_gguf), ("same", demo_gguf)], prompt_tokens=32, decode_tokens=8, repeats=2, threads=1)
    assert record.engine.startswith("llama.cpp (xllamacpp 20")
    assert record.threads == 1
    for point in record.points:
        assert 0.1 < point.prompt_tokens_s < 1e6
        assert 0.1 < point.decode_tokens_s < 1e5
        assert point.bytes == demo_gguf.stat().st_size
