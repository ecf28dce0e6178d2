"""What all engines share: check the address, start the process, wait until it is healthy, stop on a signal.

An engine says what to check, what to call and what its end means; the rest is here. Servers are stateless, so stopping
cuts requests that are being answered rather than waiting for them.
"""

from __future__ import annotations

import abc
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import ClassVar, Self

from bitwright.core.errors import BitwrightError, EnvironmentFault, UsageError
from bitwright.engines.chat import wait_healthy
from bitwright.engines.ports import base_url, exposure_warning, reserve_port
from bitwright.engines.process import EngineProcess

WATCH_SECONDS = 0.2


# The command line tells OpenMP to let waiting threads sleep, which is right for torch beside other processes. llama.cpp
# waits some hundred times a token: it decoded half as fast so, also on a busy machine (docs/log.md, 2026-11-21).
OWN_THREADS: Mapping[str, str | None] = {"OMP_WAIT_POLICY": None}


class EngineServer(abc.ABC):
    """An OpenAI-compatible server of one artifact, in a child process. Also a context manager, started or not.

    `port` 0 picks a free port; `url` tells it after `start`. `context` is the longest sequence in tokens. The engine's
    output goes to `log` (default: a temporary file that is removed after a clean stop), or to standard error if
    `verbose`.
    """

    name: ClassVar[str]
    start_seconds: ClassVar[float]  # how long loading may take
    grace_seconds: ClassVar[float]  # how long stopping may take before the engine is killed

    def __init__(
        self,
        artifact: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        api_key: str | None = None,
        context: int = 4096,
        log: Path | None = None,
        verbose: bool = False,
    ) -> None:
        if context < 1:
            raise UsageError(f"a context of {context} tokens is too short", hint="use --context 4096")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key.strip()):
            raise UsageError("the API key is empty or holds characters that HTTP headers cannot carry")
        self.artifact = artifact
        self.host = host
        self.port = port
        self.context = context
        self.warnings = tuple(line for line in [exposure_warning(host, api_key)] if line)
        self._api_key = api_key
        self._log = log
        self._verbose = verbose
        self._process: EngineProcess | None = None

    @property
    def url(self) -> str:
        """Address for clients on this machine, without `/v1`; known once the server runs."""
        assert self._process is not None, "not started"
        return base_url(self.host, self.port)

    @abc.abstractmethod
    def check(self) -> None:
        """Raise if the engine is not installed or the artifact cannot be one of its."""

    @abc.abstractmethod
    def command(self) -> list[str]:
        """The command line, without secrets. `self.port` is settled."""

    @abc.abstractmethod
    def environment(self) -> Mapping[str, str | None]:
        """Environment variables for the engine, secrets included; `None` removes one that it would inherit."""

    @abc.abstractmethod
    def explain(self, exit_code: int, log: str) -> BitwrightError:
        """What the engine's end before it was healthy means for the user. `log` holds its last lines."""

    def start(self) -> Self:
        """Start and wait until the server is healthy.

        Raises `UsageError` for a bad host, `InputError` for an artifact that the engine refuses, `EnvironmentFault`
        for a busy port, a missing engine, too little memory or a missed deadline.
        """
        assert self._process is None, "started twice"
        self.check()
        self.port = reserve_port(self.host, self.port)
        self._process = EngineProcess(
            self.command(),
            environment={**OWN_THREADS, **self.environment()},
            log=self._log,
            verbose=self._verbose,
            grace_seconds=self.grace_seconds,
        )
        try:
            self._process.start()
            wait_healthy(self.url, timeout=self.start_seconds, check=self._raise_if_ended)
        except BaseException as error:
            self._process.kill()
            self._settle_log(error)
            raise
        return self

    def stop(self) -> None:
        """Stop the server. Safe to call twice, or before `start`."""
        if self._process is not None:
            self._process.stop()
            self._process.discard_log()

    def run_until_signal(self, *, ready: Callable[[], None] | None = None) -> None:
        """Block until Ctrl-C or SIGTERM, then stop; a second signal kills the engine. Main thread only.

        `ready` is called once signals are caught: announce the address there, so that whoever reads it may signal
        at once. Raises what `explain` says if the engine ends by itself.
        """
        process = self._process
        assert process is not None, "not started"
        received: list[int] = []

        def on_signal(number: int, frame: FrameType | None) -> None:
            received.append(number)
            if len(received) > 1:
                process.kill()

        previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if ready is not None:
                ready()
            while not received:
                self._raise_if_ended()
                time.sleep(WATCH_SECONDS)
            self.stop()
        except BitwrightError as error:
            process.kill()
            self._settle_log(error)
            raise
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _raise_if_ended(self) -> None:
        assert self._process is not None
        if (code := self._process.exit_code) is not None:
            raise self.explain(code, self._process.log_tail())

    def _settle_log(self, error: BaseException) -> None:
        """Keep the log if it is the only one who knows more, else remove it."""
        assert self._process is not None
        if isinstance(error, EnvironmentFault) and error.hint is None and self._process.log is not None:
            error.hint = f"the engine's log: {self._process.log}"
        else:
            self._process.discard_log()

    def __enter__(self) -> Self:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
