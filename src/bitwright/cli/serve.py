"""`bitwright serve`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitwright import api
from bitwright.cli import options

EPILOG = """\b
Examples:
  bitwright serve q4
  bitwright serve model-Q4_K_M.gguf --port 9000 --api-key secret
  curl http://127.0.0.1:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'"""

Context = Annotated[
    int | None,
    typer.Option(
        "--context", metavar="N", min=1, show_default=False,
        help="Tokens of context; of all requests together in llama.cpp. Default: the plan's, else 4096.",
    ),
]  # fmt: skip
Parallel = Annotated[
    int | None,
    typer.Option(
        "--parallel", metavar="N", min=1, show_default=False,
        help="Requests at the same time. Default: the plan's, else 4 in llama.cpp.",
    ),
]  # fmt: skip
KvCache = Annotated[
    str | None,
    typer.Option(
        "--kv-cache", metavar="TYPE", show_default=False,
        help="Type of keys and values: q8_0, f16 and others in llama.cpp, fp8 in vLLM. Default: the plan's.",
    ),
]  # fmt: skip


def run(
    artifact: options.Artifact,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    api_key: options.ApiKey = None,
    context: Context = None,
    parallel: Parallel = None,
    kv_cache: KvCache = None,
    quiet: options.Quiet = False,
) -> None:
    """Serve an artifact with an OpenAI-compatible interface, until Ctrl-C. What is not said is as its plan says."""
    serve_until_signal(
        artifact, host=host, port=port, api_key=api_key, context=context, parallel=parallel, kv_cache=kv_cache,
        quiet=quiet,
    )  # fmt: skip


run.__name__ = "serve"


def serve_until_signal(
    artifact: Path,
    *,
    host: str,
    port: int,
    api_key: str | None,
    context: int | None = None,
    parallel: int | None = None,
    kv_cache: str | None = None,
    quiet: bool = False,
) -> None:
    """Start, say where, and block. Ctrl-C and SIGTERM are the ordinary end."""
    with api.serve(
        artifact, host=host, port=port, api_key=api_key, context=context, parallel=parallel, kv_cache=kv_cache
    ) as server:

        def announce() -> None:
            if quiet:
                return
            for warning in server.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print(f"serving {artifact} at {server.url}/v1 (Ctrl-C stops)", file=sys.stderr, flush=True)

        server.run_until_signal(ready=announce)
