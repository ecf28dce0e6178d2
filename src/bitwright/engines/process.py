"""An engine as a child process: start, watch, stop, keep its log.

The child runs on a leash (leash.py), so it ends with us however we end, and in a session of its own, so that Ctrl-C
in a terminal reaches only us and we decide how the engine stops. Its standard output and standard error go to a log
file: our standard output is data. With `verbose` they go to our standard error instead.

Not here: when the engine is ready (chat.py: `wait_healthy`) and what its exit means (each engine's file).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bitwright.core.errors import EnvironmentFault, from_os_error

STDERR = 2
KILL_MARGIN_SECONDS = 2.0
LOG_TAIL_BYTES = 16_384


class EngineProcess:
    """A child process with a log.

    `environment` is laid over ours: secrets go there, because `ps` shows arguments. A value of `None` removes the
    variable, so that a secret meant for another server does not reach this one.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str | None] | None = None,
        log: Path | None = None,
        verbose: bool = False,
        grace_seconds: float = 5.0,
    ) -> None:
        self.log = log
        self._temporary_log = log is None and not verbose
        self._command = list(command)
        self._environment = dict(environment or {})
        self._verbose = verbose
        self._grace_seconds = grace_seconds
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """True between `start` and the child's end."""
        return self._child is not None and self._child.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The command's exit code, 128 + signal if a signal ended it, `None` while it runs."""
        return None if self._child is None else self._child.poll()

    def start(self) -> None:
        """Start the child. Raises `EnvironmentFault` if the machine refuses; a log that cannot be written is told."""
        assert self._child is None, "started twice"
        merged = {**os.environ, **self._environment}
        leash = [sys.executable, "-P", "-m", "bitwright.engines.leash", str(self._grace_seconds)]
        output = self._open_log()
        try:
            self._child = subprocess.Popen(
                [*leash, *self._command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={name: value for name, value in merged.items() if value is not None},
                start_new_session=True,
            )
        except OSError as error:
            raise EnvironmentFault(f"cannot start `{self._command[0]}`: {error.strerror}") from error
        finally:
            if output != STDERR:
                os.close(output)

    def _open_log(self) -> int:
        if self._verbose:
            return STDERR
        if self.log is None:
            descriptor, name = tempfile.mkstemp(prefix="bitwright-engine-", suffix=".log")
            self.log = Path(name)
            return descriptor
        try:
            return os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        except OSError as error:
            raise from_os_error(error, self.log) from error

    def stop(self) -> None:
        """End the child and everything it started: SIGTERM, after the grace SIGKILL. Safe to call twice."""
        if self._child is None:
            return
        assert self._child.stdin is not None
        self._child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(self._grace_seconds + KILL_MARGIN_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the child and everything it started now."""
        if self._child is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS refuses a group of zombies
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        if self._child.stdin is not None:
            self._child.stdin.close()

    def log_tail(self) -> str:
        """The last lines of the log; empty when the output went to standard error."""
        if self.log is None or not self.log.exists():
            return ""
        with self.log.open("rb") as handle:
            handle.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return handle.read().decode("utf-8", "replace")

    def discard_log(self) -> None:
        """Remove the log if it is a temporary one; after a failure it is kept, so that the message can name it."""
        if self._temporary_log and self.log is not None:
            self.log.unlink(missing_ok=True)
