"""The chat client against a server of the standard library that speaks as OpenAI's does, or does not."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bitwright.core.errors import BitwrightError, EnvironmentFault, UsageError
from bitwright.engines.chat import ChatReply, chat_once, wait_healthy
from bitwright.engines.ports import reserve_port

REPLY = {
    "choices": [{"message": {"role": "assistant", "content": "Paris."}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3},
}


class FakeApi(http.server.ThreadingHTTPServer):
    """Answers chats with `status` and `reply`; remembers the last request. `sick` health checks fail first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.status = 200
        self.reply: bytes = json.dumps(REPLY).encode()
        self.request_body: dict[str, Any] = {}
        self.request_key: str | None = None
        self.sick = 0
        self.delay_seconds = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class FakeHandler(http.server.BaseHTTPRequestHandler):
    server: FakeApi

    def do_GET(self) -> None:
        if self.path == "/health":
            self.server.sick -= 1
            self.answer(503 if self.server.sick >= 0 else 200, b"{}")
        else:
            self.answer(200, json.dumps({"data": [{"id": "the-model"}]}).encode())

    def do_POST(self) -> None:
        self.server.request_key = self.headers["Authorization"]
        self.server.request_body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        time.sleep(self.server.delay_seconds)
        self.answer(self.server.status, self.server.reply)

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_one_turn(api: FakeApi) -> None:
    api.delay_seconds = 0.05
    reply = chat_once(api.url, "Capital of France?", api_key="key", max_tokens=7)
    assert reply == ChatReply(text="Paris.", prompt_tokens=12, completion_tokens=3, seconds=reply.seconds)
    assert 0.05 <= reply.seconds < 5
    assert api.request_key == "Bearer key"
    assert api.request_body == {
        "model": "the-model",
        "messages": [{"role": "user", "content": "Capital of France?"}],
        "max_tokens": 7,
        "temperature": 0.0,
    }


def test_without_a_key_no_header_is_sent_and_proxies_are_ignored(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert chat_once(api.url, "hi").text == "Paris."
    assert api.request_key is None


def test_an_empty_answer_is_an_empty_text(api: FakeApi) -> None:
    api.reply = json.dumps({**REPLY, "choices": [{"message": {"content": None}}]}).encode()
    assert chat_once(api.url, "hi").text == ""


@pytest.mark.parametrize(
    ("status", "reply", "kind", "words"),
    [
        (401, b"{}", UsageError, "refuses the API key"),
        (400, b'{"error": {"message": "too\\nlong"}}', UsageError, "answered 400: too long"),
        (500, b"kaput", EnvironmentFault, "answered 500: kaput"),
        (200, b"<html>", EnvironmentFault, "not JSON"),
        (200, b"[1]", EnvironmentFault, "expected an object"),
        (200, b'{"choices": []}', EnvironmentFault, "does not speak"),
    ],
)
def test_refusals_are_one_line(api: FakeApi, status: int, reply: bytes, kind: type[BitwrightError], words: str) -> None:
    api.status, api.reply = status, reply
    with pytest.raises(kind, match=words) as caught:
        chat_once(api.url, "hi")
    assert type(caught.value) is kind
    assert "\n" not in caught.value.message


def test_a_slow_server_is_an_environment_fault(api: FakeApi) -> None:
    api.delay_seconds = 0.6
    with pytest.raises(EnvironmentFault, match=r"within 0\.2 s"):
        chat_once(api.url, "hi", timeout=0.2)


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{reserve_port('127.0.0.1', 0)}"
    with pytest.raises(EnvironmentFault, match="cannot be reached"):
        chat_once(url, "hi")


def test_health_is_waited_for(api: FakeApi) -> None:
    api.sick = 2
    wait_healthy(api.url, timeout=5)
    assert api.sick == -1, "two refusals, then the answer that ended the wait"


def test_health_has_a_deadline_and_a_check(api: FakeApi) -> None:
    api.sick = 1_000_000
    with pytest.raises(EnvironmentFault, match="not ready within"):
        wait_healthy(api.url, timeout=0.2)

    def dead() -> None:
        raise EnvironmentFault("the engine is dead")

    with pytest.raises(EnvironmentFault, match="the engine is dead"):
        wait_healthy(api.url, timeout=60, check=dead)
