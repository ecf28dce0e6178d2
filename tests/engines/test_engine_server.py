"""Start, watch and stop an engine, whichever it is."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import psutil
import pytest

from bitwright.core.errors import BitwrightError, EnvironmentFault, InputError, UsageError
from bitwright.engines.server import EngineServer

Fake = Callable[..., list[str]]


class FakeServer(EngineServer):
    """The fake engine as an engine of ours."""

    name = "fake"
    start_seconds = 10.0
    grace_seconds = 30.0
    program: list[str]

    def check(self) -> None: ...

    def command(self) -> list[str]:
        return [*self.program, "--port", str(self.port)]

    def environment(self) -> dict[str, str]:
        return {} if self._api_key is None else {"FAKE_API_KEY": self._api_key}

    def explain(self, exit_code: int, log: str) -> BitwrightError:
        if "bad file" in log:
            return InputError("bad file")
        return EnvironmentFault(f"ended with {exit_code}")


def fake_server(program: list[str], **options: object) -> FakeServer:
    server = FakeServer(Path("artifact"), port=0, **options)  # type: ignore[arg-type]
    server.program = program
    return server


def test_it_waits_until_healthy_and_stops(fake_engine: Fake) -> None:
    with fake_server(fake_engine(load_seconds=0.3)) as server:
        assert httpx.get(server.url + "/health", trust_env=False).status_code == 200
        assert server.url == f"http://127.0.0.1:{server.port}"
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health", trust_env=False)
    server.stop()


def test_a_started_server_is_a_context_manager_too(fake_engine: Fake) -> None:
    with fake_server(fake_engine()).start() as server:
        assert httpx.get(server.url + "/health", trust_env=False).status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url + "/health", trust_env=False)


def test_an_engine_waits_as_it_likes(fake_engine: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    with fake_server(fake_engine()) as server:
        assert server._process is not None
        assert server._process._child is not None
        (child,) = psutil.Process(server._process._child.pid).children()
        inherited = child.environ()
    assert "OMP_WAIT_POLICY" not in inherited
    assert inherited["OMP_NUM_THREADS"] == "2"


def test_an_engine_that_dies_while_loading_is_explained(fake_engine: Fake) -> None:
    server = fake_server(fake_engine(die=65, last_words="bad file"))
    with pytest.raises(InputError, match="bad file"):
        server.start()
    assert server._process is not None
    assert server._process.log is not None
    assert not server._process.log.exists(), "the reason is told: the log is not needed"


def test_a_death_that_nobody_understands_names_the_log(fake_engine: Fake) -> None:
    server = fake_server(fake_engine(die=9))
    with pytest.raises(EnvironmentFault, match="ended with 9") as caught:
        server.start()
    assert caught.value.hint is not None
    log = Path(caught.value.hint.removeprefix("the engine's log: "))
    assert "fake engine speaks" in log.read_text()
    log.unlink()


def test_a_missed_deadline_ends_the_engine(fake_engine: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeServer, "start_seconds", 0.3)
    server = fake_server(fake_engine(load_seconds=60), log=tmp_path / "log")
    with pytest.raises(EnvironmentFault, match=r"not ready within 0\.3 s"):
        server.start()
    assert server._process is not None
    assert not server._process.running


def test_a_busy_port_is_found_before_the_engine_starts(fake_engine: Fake, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = FakeServer(Path("artifact"), port=taken.getsockname()[1])
        server.program = fake_engine(record=tmp_path / "record")
        with pytest.raises(EnvironmentFault, match="is in use"):
            server.start()
    assert not (tmp_path / "record").exists()


def test_warnings_tell_of_an_open_door() -> None:
    (line,) = FakeServer(Path("artifact"), host="0.0.0.0").warnings
    assert "without an API key" in line
    assert FakeServer(Path("artifact"), host="0.0.0.0", api_key="key").warnings == ()
    assert FakeServer(Path("artifact")).warnings == ()


@pytest.mark.parametrize("key", ["", " ", "line\nbreak", "schlüssel"])
def test_keys_that_headers_cannot_carry(key: str) -> None:
    with pytest.raises(UsageError, match="API key"):
        FakeServer(Path("artifact"), api_key=key)


def test_an_empty_context_is_refused() -> None:
    with pytest.raises(UsageError, match="context of 0"):
        FakeServer(Path("artifact"), context=0)


def blocking_program(command: list[str]) -> subprocess.Popen[str]:
    """A process that serves until a signal comes, as `bitwright serve` does."""
    script = textwrap.dedent(
        f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_engine_server import fake_server
        server = fake_server({command!r}).start()
        server.run_until_signal(ready=lambda: print("ready", flush=True))
        print("stopped", flush=True)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_with_exit_code_0(fake_engine: Fake, number: signal.Signals) -> None:
    child = blocking_program(fake_engine())
    child.send_signal(number)
    started = time.monotonic()
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "stopped\n", "")
    assert time.monotonic() - started < 5


def test_a_second_ctrl_c_forces(fake_engine: Fake) -> None:
    child = blocking_program(fake_engine(deaf=True))  # would take the 30 s of grace
    child.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert child.poll() is None, "the first one waits for the engine"
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=10)
    assert (child.returncode, out, err) == (0, "stopped\n", "")


def test_an_engine_that_dies_while_serving_is_an_error(fake_engine: Fake, tmp_path: Path) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    server = fake_server(fake_engine(die_after=0.2), log=tmp_path / "log").start()
    with pytest.raises(EnvironmentFault, match="ended with 7"):
        server.run_until_signal()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
