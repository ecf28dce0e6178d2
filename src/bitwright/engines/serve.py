"""Which engine serves which artifact."""

from __future__ import annotations

from pathlib import Path

from bitwright.core.plan import ArtifactFormat
from bitwright.engines.llamacpp import LlamaCppServer
from bitwright.engines.server import EngineServer
from bitwright.engines.vllm import VllmServer


def serve(
    artifact: Path,
    kind: ArtifactFormat,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    api_key: str | None = None,
    context: int = 4096,
    log: Path | None = None,
    verbose: bool = False,
) -> EngineServer:
    """Start the engine for this kind of artifact and wait until it is healthy; the caller stops it.

    `kind` "gguf": `artifact` is the file, llama.cpp serves it. Otherwise it is the folder, vLLM serves it.
    The caller shows the server's `warnings`. Errors as in `EngineServer.start`.
    """
    engine: type[EngineServer] = LlamaCppServer if kind == "gguf" else VllmServer
    server = engine(artifact, host=host, port=port, api_key=api_key, context=context, log=log, verbose=verbose)
    return server.start()
