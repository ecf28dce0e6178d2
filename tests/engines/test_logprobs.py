"""Servers that answer in the shapes of llama.cpp and of vLLM, and what is made of them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bitwright.core.errors import EnvironmentFault
from bitwright.engines.logprobs import Listener

LLAMA_PLACE = {
    "id": 7, "token": "a", "logprob": -0.5,
    "top_logprobs": [{"id": 7, "token": "a", "logprob": -0.5}, {"id": 3, "token": "b", "logprob": -1.5}],
}  # fmt: skip
ANSWERS: dict[str, dict[str, Any]] = {
    "llama.cpp": {
        "/props": {"build_info": "b1", "total_slots": 4, "default_generation_settings": {"n_ctx": 512}},
        "/v1/completions": {
            "choices": [{"logprobs": {"content": [LLAMA_PLACE, LLAMA_PLACE]}}], "usage": {"completion_tokens": 2},
        },
        "/tokenize": {"tokens": [1, 2]},
        "/apply-template": {"prompt": "<user>hello"},
    },
    "vLLM": {
        "/version": {"version": "0.32.0"},
        "/v1/completions": {
            "choices": [
                {
                    "logprobs": {
                        "tokens": ["token_id:7", "token_id:3"],
                        "top_logprobs": [{"token_id:7": -0.5, "token_id:3": -1.5}, {"token_id:3": -0.1}],
                    }
                }
            ],
            "usage": {"completion_tokens": 2},
        },
        "/tokenize": {"tokens": [4, 5], "count": 2},
    },
    "empty": {
        "/v1/completions": {
            "choices": [{"logprobs": {"content": [LLAMA_PLACE | {"top_logprobs": []}]}}],
            "usage": {"completion_tokens": 1},
        }
    },
    "wordless": {"/v1/completions": {"choices": [{"logprobs": {"content": []}}], "usage": {"completion_tokens": 1}}},
    "inside characters": {
        "/v1/completions": {"choices": [{"logprobs": {"content": [LLAMA_PLACE]}}], "usage": {"completion_tokens": 3}}
    },
    "deaf": {"/v1/completions": {"choices": [{"text": "no figures"}]}},
}  # fmt: skip


@pytest.fixture(params=["llama.cpp", "vLLM", "deaf"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def listener(engine: str) -> Iterator[Listener]:
    answers = {"/v1/models": {"data": [{"id": "m"}]}} | ANSWERS[engine]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path, {"error": {"message": "no such path"}})).encode()
            self.send_response(200 if self.path in answers else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.do_GET()

        def log_message(self, *_: object) -> None: ...

    asked: list[dict[str, Any]] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with Listener(f"http://127.0.0.1:{server.server_address[1]}/v1") as made:
        made.asked = asked  # type: ignore[attr-defined]
        yield made
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("engine", ["llama.cpp", "vLLM"], indirect=True)
def test_both_shapes_say_the_same(listener: Listener, engine: str) -> None:
    server = listener.server()
    assert (server.engine, server.model) == (engine, "m")
    (heard,) = listener.listen("m", [[5, 6]], new_tokens=2, top=2)
    assert heard.prompt == (5, 6)
    assert heard.written == ((7, 7) if engine == "llama.cpp" else (7, 3))
    assert heard.top_ids[0] == (7, 3)
    assert heard.top_logprobs[0] == (-0.5, -1.5)
    body = listener.asked[0]  # type: ignore[attr-defined]
    assert (body["prompt"], body["temperature"], body["logprobs"]) == ([5, 6], 0, 2)
    assert listener.tokens_of("m", "text") == listener.chat_tokens("m", [{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("engine", ["llama.cpp"], indirect=True)
def test_a_chat_is_rendered_and_then_read(listener: Listener) -> None:
    listener.chat_tokens("m", [{"role": "user", "content": "hello"}])
    rendered, read = listener.asked  # type: ignore[attr-defined]
    assert rendered["messages"][0]["content"] == "hello"
    assert read["content"] == "<user>hello"


@pytest.mark.parametrize("engine", ["empty", "wordless", "inside characters"], indirect=True)
def test_places_without_tokens_are_no_log_probabilities(listener: Listener) -> None:
    with pytest.raises(EnvironmentFault, match=r"log-probabilities|tells none of the tokens"):
        listener.listen("m", [[1]], new_tokens=1, top=2)


@pytest.mark.parametrize("engine", ["deaf"], indirect=True)
def test_a_server_that_tells_little(listener: Listener) -> None:
    assert listener.server().engine == "unknown"
    assert listener.tokens_of("m", "text") is None
    assert listener.chat_tokens("m", []) is None
    with pytest.raises(EnvironmentFault, match="log-probabilities"):
        listener.listen("m", [[1]], new_tokens=1, top=2)


@pytest.mark.parametrize("engine", ["inside characters"], indirect=True)
def test_less_is_written_where_tokens_are_left_out(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three tokens of which one was told, and so on down to one; a server that then tells it is heard."""
    asked: list[dict[str, Any]] = listener.asked  # type: ignore[attr-defined]
    answer = ANSWERS["inside characters"]["/v1/completions"]

    def reply(_client: object, _method: str, _path: str, body: dict[str, Any]) -> dict[str, Any]:
        asked.append(body)
        return answer | {"usage": {"completion_tokens": min(body["max_tokens"], 3)}}

    monkeypatch.setattr("bitwright.engines.logprobs.request_json", reply)
    (heard,) = listener.listen("m", [[5, 6]], new_tokens=24, top=2)
    assert heard.written == (7,)
    assert [body["max_tokens"] for body in asked] == [24, 12, 6, 3, 1]
