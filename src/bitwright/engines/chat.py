"""Talk to an OpenAI-compatible server: is it ready, and one chat turn.

Every server of this room is reached through `connect`, which ignores the environment's proxies: they are for the
network, and a proxy cannot reach our loopback address.

Source of the request and reply fields: the OpenAI API reference, "Create chat completion".
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import httpx

from bitwright.core.errors import BitwrightError, EnvironmentFault, UsageError

POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ChatReply:
    """One answer. `seconds` is wall time of the request; token counts are the server's."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


def connect(url: str, *, api_key: str | None = None, timeout: float = 120.0) -> httpx.Client:
    """A client for the server at `url` (without `/v1`); the caller closes it."""
    headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
    return httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)


def chat_once(
    url: str,
    prompt: str,
    *,
    api_key: str | None = None,
    max_tokens: int = 64,
    temperature: float = 0.0,
    timeout: float = 120.0,
) -> ChatReply:
    """Send one user message to the first model of the server and wait for the whole answer.

    Raises `UsageError` if the key or the request is refused, `EnvironmentFault` if the server cannot be reached,
    does not answer within `timeout` seconds, or answers something else.
    """
    with connect(url, api_key=api_key, timeout=timeout) as client:
        models = request_json(client, "GET", "/v1/models")
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": temperature,
        }
        started = time.perf_counter()
        try:
            body["model"] = models["data"][0]["id"]
            reply = request_json(client, "POST", "/v1/chat/completions", body)
            return ChatReply(
                text=str(reply["choices"][0]["message"]["content"] or ""),
                prompt_tokens=int(reply["usage"]["prompt_tokens"]),
                completion_tokens=int(reply["usage"]["completion_tokens"]),
                seconds=time.perf_counter() - started,
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise EnvironmentFault(f"the server at {url} does not speak the OpenAI chat protocol") from error


def request_json(client: httpx.Client, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """One request whose answer is a JSON object. Errors as in `chat_once`."""
    where = f"the server at {str(client.base_url).rstrip('/')}"
    try:
        response = client.request(method, path, json=body)
    except httpx.TimeoutException as error:
        raise EnvironmentFault(f"{where} did not answer within {client.timeout.read:g} s") from error
    except httpx.HTTPError as error:
        raise EnvironmentFault(f"{where} cannot be reached: {error}", hint="is it running?") from error
    if response.status_code != httpx.codes.OK:
        raise _refusal(where, response)
    try:
        answer = response.json()
    except ValueError as error:
        raise EnvironmentFault(f"{where} answered {path} with something that is not JSON") from error
    if not isinstance(answer, dict):
        raise EnvironmentFault(f"{where} answered {path} with {type(answer).__name__}, expected an object")
    return answer


def _refusal(where: str, response: httpx.Response) -> BitwrightError:
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return UsageError(f"{where} refuses the API key", hint="give the key the server was started with: --api-key")
    message = f"{where} answered {response.status_code}: {_error_text(response)}"
    return UsageError(message) if response.is_client_error else EnvironmentFault(message)


def _error_text(response: httpx.Response) -> str:
    """The message inside an OpenAI error object, or the start of the body, on one line."""
    try:
        text = response.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(str(text).split())[:300]


def wait_healthy(url: str, *, timeout: float, check: Callable[[], None] | None = None) -> None:
    """Poll `/health` until it answers 200. `check` runs before each poll and may raise, e.g. if the engine died.

    Raises `EnvironmentFault` after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    with connect(url, timeout=5.0) as client:
        while True:
            if check is not None:
                check()
            try:
                if client.get("/health").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # not listening yet
            if time.monotonic() > deadline:
                raise EnvironmentFault(f"the server at {url} was not ready within {timeout:g} s")
            time.sleep(POLL_SECONDS)
