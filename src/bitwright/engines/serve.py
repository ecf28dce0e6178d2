"""Which engine serves which artifact, and how: as its plan says, unless a person says otherwise.

Not here: reading the plan (api/service.py), writing its line (planner/launch.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitwright.core.plan import ArtifactFormat
from bitwright.engines.llamacpp import LlamaCppServer
from bitwright.engines.server import EngineServer
from bitwright.engines.vllm import VllmServer, without_flag

CONTEXT, PARALLEL, CACHE = 4096, 4, "f16"  # where neither plan nor person says
OURS = ("bitwright", "serve", "{artifact}")  # how the plan of a GGUF file begins
VLLM = ("vllm", "serve", "{artifact}")


def serve(
    artifact: Path,
    kind: ArtifactFormat,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    context: int | None = None,
    parallel: int | None = None,
    kv_cache: str | None = None,
    planned: Sequence[str] = (),
    log: Path | None = None,
    verbose: bool = False,
) -> EngineServer:
    """Start the engine for this kind of artifact and wait until it is healthy; the caller stops it.

    `kind` "gguf": `artifact` is the file, llama.cpp serves it. Otherwise it is the folder, vLLM serves it. `planned` is
    the launch line of the plan; `context`, `parallel` (requests at once) and `kv_cache` (type of keys and values, in
    the engine's words) go before it. The caller shows the server's `warnings`. Errors as in `EngineServer.start`.
    """
    server: EngineServer
    if kind == "gguf":
        line = [*planned[len(OURS) :]] if tuple(planned[: len(OURS)]) == OURS else []
        server = LlamaCppServer(
            artifact, host=host, port=port, api_key=api_key, log=log, verbose=verbose,
            context=context or int(value_of(line, "--context") or CONTEXT),
            parallel=parallel or int(value_of(line, "--parallel") or PARALLEL),
            kv_cache=kv_cache or value_of(line, "--kv-cache") or CACHE,
        )  # fmt: skip
    else:
        line = [*planned[len(VLLM) :]] if tuple(planned[: len(VLLM)]) == VLLM else []
        context = context or int(value_of(line, "--max-model-len") or CONTEXT)
        flags = vllm_flags(line, parallel=parallel, kv_cache=kv_cache)
        server = VllmServer(
            artifact, host=host, port=port, api_key=api_key, context=context, flags=flags, log=log, verbose=verbose
        )
    return server.start()


def vllm_flags(line: Sequence[str], *, parallel: int | None, kv_cache: str | None) -> list[str]:
    """The plan's flags without address and length, with what a person said in place of the plan's."""
    said = {"--max-num-seqs": parallel, "--kv-cache-dtype": kv_cache}
    given = {name: str(value) for name, value in said.items() if value is not None}
    for name in ("--host", "--port", "--max-model-len", *given):
        line = without_flag(line, name)
    return [*line, *(word for pair in given.items() for word in pair)]


def value_of(line: Sequence[str], name: str) -> str | None:
    """The word after a flag, `None` where the line has no such flag."""
    return line[[*line].index(name) + 1] if name in line else None
