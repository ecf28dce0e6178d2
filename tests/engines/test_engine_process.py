"""A child process ends when we want it to, and when we are gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from bitwright.core.errors import BitwrightError
from bitwright.engines.process import EngineProcess

DEADLINE_SECONDS = 10.0
Fake = Callable[..., list[str]]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def read_pid(path: Path) -> int:
    wait_until(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())


def test_stop_ends_the_engine_and_its_workers(fake_engine: Fake, tmp_path: Path) -> None:
    process = EngineProcess([*fake_engine(worker_pid=tmp_path / "pid"), "--port", "0"])
    process.start()
    worker = read_pid(tmp_path / "pid")
    assert process.running
    started = time.monotonic()
    process.stop()
    assert time.monotonic() - started < 3, "a polite engine ends without waiting for the grace"
    assert not process.running
    wait_until(lambda: is_gone(worker))
    process.stop()
    process.discard_log()


def test_an_engine_deaf_to_sigterm_is_killed_after_the_grace(fake_engine: Fake, tmp_path: Path) -> None:
    process = EngineProcess([*fake_engine(deaf=True, worker_pid=tmp_path / "pid"), "--port", "0"], grace_seconds=0.5)
    process.start()
    worker = read_pid(tmp_path / "pid")
    started = time.monotonic()
    process.stop()
    assert 0.5 <= time.monotonic() - started < 3
    wait_until(lambda: is_gone(worker))
    process.discard_log()


def test_the_engine_ends_when_its_parent_is_killed(fake_engine: Fake, tmp_path: Path) -> None:
    command = [*fake_engine(worker_pid=tmp_path / "pid"), "--port", "0"]
    parent = textwrap.dedent(
        f"""
        import os, signal, sys, time
        from pathlib import Path
        from bitwright.engines.process import EngineProcess
        EngineProcess({command!r}, log=Path({str(tmp_path / "log")!r})).start()
        pid = Path({str(tmp_path / "pid")!r})
        while not pid.exists() or not pid.read_text():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)
        """
    )
    done = subprocess.run([sys.executable, "-c", parent], timeout=DEADLINE_SECONDS, check=False)
    assert done.returncode == -signal.SIGKILL
    worker = read_pid(tmp_path / "pid")
    wait_until(lambda: is_gone(worker))


def test_output_goes_to_the_log_and_standard_output_stays_clean(
    fake_engine: Fake, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    process = EngineProcess(fake_engine(die=3), log=tmp_path / "serve.log")
    process.start()
    wait_until(lambda: not process.running)
    assert process.exit_code == 3
    process.stop()
    assert "on standard output" in process.log_tail()
    assert "on standard error" in process.log_tail()
    assert capfd.readouterr() == ("", "")
    process.discard_log()
    assert (tmp_path / "serve.log").exists(), "a log that was asked for is kept"


def test_verbose_output_goes_to_standard_error(fake_engine: Fake, capfd: pytest.CaptureFixture[str]) -> None:
    process = EngineProcess(fake_engine(die=0), verbose=True)
    process.start()
    wait_until(lambda: not process.running)
    process.stop()
    out, err = capfd.readouterr()
    assert out == ""
    assert "on standard output" in err
    assert process.log_tail() == ""


def test_a_temporary_log_can_be_discarded(fake_engine: Fake) -> None:
    process = EngineProcess(fake_engine(die=0))
    process.start()
    wait_until(lambda: not process.running)
    process.stop()
    assert process.log is not None
    assert process.log.exists()
    process.discard_log()
    assert not process.log.exists()


def test_a_signal_that_ended_the_command_is_told(fake_engine: Fake, tmp_path: Path) -> None:
    process = EngineProcess(fake_engine(abort=True), log=tmp_path / "log")
    process.start()
    wait_until(lambda: not process.running)
    assert process.exit_code == 128 + signal.SIGABRT
    process.stop()


def test_a_log_in_a_missing_folder_is_an_error_of_ours(fake_engine: Fake, tmp_path: Path) -> None:
    with pytest.raises(BitwrightError, match="absent"):
        EngineProcess(fake_engine(), log=tmp_path / "absent" / "log").start()


def test_a_key_for_another_server_is_taken_out_of_the_environment(
    fake_engine: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("X_API_KEY", "of another server")
    monkeypatch.setenv("Y_API_KEY", "kept")
    process = EngineProcess(
        fake_engine(record=tmp_path / "record", die=0), environment={"X_API_KEY": None}, log=tmp_path / "log"
    )
    process.start()
    wait_until(lambda: not process.running)
    process.stop()
    keys = json.loads((tmp_path / "record").read_text())["keys"]
    assert keys["Y_API_KEY"] == "kept"
    assert "X_API_KEY" not in keys


def test_secrets_travel_in_the_environment_only(fake_engine: Fake, tmp_path: Path) -> None:
    command = [*fake_engine(worker_pid=tmp_path / "pid"), "--port", "0"]
    process = EngineProcess(command, environment={"X_API_KEY": "s3cret"}, log=tmp_path / "log")
    process.start()
    read_pid(tmp_path / "pid")
    family = [psutil.Process(os.getpid()), *psutil.Process(os.getpid()).children(recursive=True)]
    shown = [" ".join(member.cmdline()) for member in family]
    process.stop()
    assert any("fake_engine.py" in line for line in shown)
    assert not any("s3cret" in line for line in shown)
