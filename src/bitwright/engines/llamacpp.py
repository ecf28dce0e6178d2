"""Serve a GGUF file with llama.cpp, embedded through `xllamacpp`: no `llama-server` program is needed.

The library runs inside a Python process of its own (llamacpp_worker.py), not in ours, because (xllamacpp 2026.10):
- `Server(...)` holds the interpreter lock while it loads, so Ctrl-C and deadlines would wait for gigabytes of weights;
- its destructor waits up to 30 s for a stream that is being answered;
- llama.cpp writes its log to file descriptor 2 of the whole process, and a failed assertion of ggml aborts it.
docs/decisions/0003-engines.md holds the measurements.

Not here: whether the tensors are right (formats/ writes them, evaluation/ judges them).
"""

from __future__ import annotations

import importlib.util
import re
import signal
import sys
from pathlib import Path
from typing import ClassVar

import msgspec

from bitwright.core.errors import BitwrightError, EnvironmentFault, InputError, UsageError, did_you_mean, from_os_error
from bitwright.engines.llamacpp_settings import API_KEY_VARIABLE, CACHE_TYPES, LOAD_FAILED, WorkerSettings
from bitwright.engines.ports import port_in_use
from bitwright.engines.server import EngineServer

GGUF_MAGIC = b"GGUF"
MEMORY_SIGNS = ("insufficient memory", "failed to allocate", "out of memory", "bad_alloc")
LOG_LINE = re.compile(r"^[\d.]+ ([EWID]) (.*)$", re.MULTILINE)  # minutes.seconds.ms.us, level, text
REASON_PREFIX = re.compile(r"^\w+: (?:error loading model: )?")  # the text begins with a C++ function's name


class LlamaCppServer(EngineServer):
    """A GGUF file behind llama.cpp's HTTP server: chat, completions, streaming, `/health`, `/metrics`.

    `threads` defaults to llama.cpp's choice (physical cores). `gpu_layers` -1 puts on a GPU what fits, if the installed
    build has one; 0 keeps all on the CPU. `parallel` requests share the context. `kv_cache` is the type of
    keys and values, one of `CACHE_TYPES`.
    """

    name: ClassVar[str] = "llama.cpp"
    start_seconds: ClassVar[float] = 600.0
    grace_seconds: ClassVar[float] = 3.0

    def __init__(
        self,
        artifact: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8080,
        api_key: str | None = None,
        context: int = 4096,
        threads: int | None = None,
        gpu_layers: int = -1,
        parallel: int = 4,
        kv_cache: str = "f16",
        log: Path | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(artifact, host=host, port=port, api_key=api_key, context=context, log=log, verbose=verbose)
        self.threads = threads
        self.gpu_layers = gpu_layers
        self.parallel = parallel
        self.kv_cache = kv_cache
        if kv_cache not in CACHE_TYPES:
            raise UsageError(
                f"llama.cpp keeps no cache of type `{kv_cache}`", hint=did_you_mean(kv_cache, [*CACHE_TYPES])
            )

    def check(self) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise EnvironmentFault("the package `xllamacpp` is not installed", hint="pip install xllamacpp")
        check_gguf(self.artifact)

    def command(self) -> list[str]:
        settings = WorkerSettings(
            model=str(self.artifact.resolve()),
            alias=self.artifact.stem,
            host=self.host,
            port=self.port,
            context=self.context,
            threads=self.threads,
            gpu_layers=self.gpu_layers,
            parallel=self.parallel,
            verbose=self._verbose,
            kv_cache=self.kv_cache,
        )
        text = msgspec.json.encode(settings).decode()
        return [sys.executable, "-P", "-m", "bitwright.engines.llamacpp_worker", text]

    def environment(self) -> dict[str, str | None]:
        return {API_KEY_VARIABLE: self._api_key}

    def explain(self, exit_code: int, log: str) -> BitwrightError:
        where = f"`{self.artifact}`"
        errors = [text for level, text in LOG_LINE.findall(log) if level == "E"]
        if "couldn't bind HTTP server socket" in log:
            return port_in_use(self.host, self.port)
        if any(sign in log for sign in MEMORY_SIGNS):
            return EnvironmentFault(
                f"not enough memory to serve {where} with a context of {self.context} tokens",
                hint="use a smaller --context, or a smaller quantization",
            )
        if exit_code == LOAD_FAILED:
            reason = REASON_PREFIX.sub("", errors[0]) if errors else "its log says why"
            return InputError(f"llama.cpp cannot load {where}: {reason}")
        if exit_code == 128 + signal.SIGKILL:
            return EnvironmentFault(f"llama.cpp was killed while it served {where}: the machine may be out of memory")
        if exit_code > 128:
            return EnvironmentFault(f"llama.cpp crashed with {signal.Signals(exit_code - 128).name} on {where}")
        return EnvironmentFault(f"llama.cpp ended with code {exit_code}: {_last_line(log)}")


def check_gguf(path: Path) -> None:
    """Raise `InputError` unless the file exists and begins as a GGUF file does; llama.cpp judges the rest."""
    try:
        with path.open("rb") as handle:
            magic = handle.read(len(GGUF_MAGIC))
    except OSError as error:
        raise from_os_error(error, path) from error
    if magic != GGUF_MAGIC:
        raise InputError(
            f"`{path}` is not a GGUF file: it begins with {magic!r}, expected {GGUF_MAGIC!r}",
            hint="`bitwright inspect` tells what a file is",
        )


def _last_line(log: str) -> str:
    lines = log.strip().splitlines()
    return lines[-1] if lines else "no output"
