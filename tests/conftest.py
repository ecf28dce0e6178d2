"""What holds for every test: no network, a cache of its own, the same random examples on every run."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from bitwright.facts.engine_options import problems
from bitwright.planner import launch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
settings.register_profile("ci", derandomize=True, deadline=None, database=None)
settings.load_profile("ci")

BROWSER = "chromium"
LOOPBACK = ("127.0.0.1", "::1", "localhost", "0.0.0.0", "::")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections leave this machine in no test; engines are reached over loopback."""
    monkeypatch.setattr(socket.socket, "connect", _guarded(socket.socket.connect))
    monkeypatch.setattr(socket.socket, "connect_ex", _guarded(socket.socket.connect_ex))


def _guarded(real: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
    def connect(self: socket.socket, address: Any) -> Any:
        if self.family != socket.AF_UNIX and address[0] not in LOOPBACK:
            raise OSError(f"a test tried to reach {address[0]}")
        return real(self, address)

    return connect


@pytest.fixture(scope="session", autouse=True)
def lines_are_taken() -> Iterator[None]:
    """Every launch line of every plan in the tests is held against the recorded options of its engine."""
    with pytest.MonkeyPatch.context() as patch:
        writers = {"vllm": ("_vllm", 2), "sglang": ("_sglang", 2), "tensorrt-llm": ("_tensorrt_llm", 1)}
        for engine, (write, words) in (writers | {"lmdeploy": ("_lmdeploy", 3)}).items():
            patch.setattr(launch, write, _judged(engine, getattr(launch, write), words))
        yield


def _judged(engine: str, real: Callable[[Any], tuple[str, ...]], words: int) -> Callable[[Any], tuple[str, ...]]:
    seen: set[tuple[str, ...]] = set()

    def line(serving: Any) -> tuple[str, ...]:
        found = real(serving)
        if found not in seen:
            seen.add(found)
            assert problems(engine, found[words:]) == [], found
        return found

    return line


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """bitwright's cache and the hub's lie in a folder of this test; the hub is off."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BITWRIGHT_CACHE", str(folder))
    monkeypatch.setenv("HF_HOME", str(folder / "huggingface"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is as wide as a pipe's: pytest's workers set COLUMNS, which breaks lines."""
    monkeypatch.delenv("COLUMNS", raising=False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that look at a page need a browser; without one they are left out, and the summary says so."""
    if shutil.which(BROWSER) is not None:
        return
    left_out = [item for item in items if item.get_closest_marker("browser")]
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)
    config.stash[LEFT_OUT] = len(left_out)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say what was not run."""
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(f"{count} browser tests left out: no {BROWSER} on this machine")


LEFT_OUT = pytest.StashKey[int]()
