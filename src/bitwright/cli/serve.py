"""`bitwright serve`."""

from __future__ import annotations

import sys
from pathlib import Path

from bitwright import api
from bitwright.api.service import CONTEXT
from bitwright.cli import options

EPILOG = """\b
Examples:
  bitwright serve q4
  bitwright serve model-Q4_K_M.gguf --port 9000 --api-key secret
  curl http://127.0.0.1:8080/v1/chat/completions -d '{"messages": [{"role": "user", "content": "Hello"}]}'"""


def run(
    artifact: options.Artifact,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    api_key: options.ApiKey = None,
    context: options.Context = CONTEXT,
    quiet: options.Quiet = False,
) -> None:
    """Serve an artifact with an OpenAI-compatible interface, until Ctrl-C."""
    serve_until_signal(artifact, host=host, port=port, api_key=api_key, context=context, quiet=quiet)


run.__name__ = "serve"


def serve_until_signal(
    artifact: Path, *, host: str, port: int, api_key: str | None, context: int = CONTEXT, quiet: bool = False
) -> None:
    """Start, say where, and block. Ctrl-C and SIGTERM are the ordinary end."""
    with api.serve(artifact, host=host, port=port, api_key=api_key, context=context) as server:

        def announce() -> None:
            if quiet:
                return
            for warning in server.warnings:
                print(f"warning: {warning}", file=sys.stderr)
            print(f"serving {artifact} at {server.url}/v1 (Ctrl-C stops)", file=sys.stderr, flush=True)

        server.run_until_signal(ready=announce)
