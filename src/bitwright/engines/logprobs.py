"""Listen to a running server: its most probable tokens behind given token ids, how it reads text and renders chats.

Prompts go as token ids, so that nothing but the model is asked; text and chats go by ways of their own. llama.cpp and
vLLM answer `/v1/completions` in different shapes, and render chats under different paths.

Sources: llama.cpp tools/server/README.md (`/props`, `/tokenize`, `/apply-template`, `n_probs`); vLLM 0.32,
entrypoints/openai/protocol.py (`return_tokens_as_token_ids`, `/tokenize`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx

from bitwright.core.errors import EnvironmentFault, UsageError
from bitwright.core.heard import Heard, Server
from bitwright.engines.chat import connect, request_json

ID_PREFIX = "token_id:"  # vLLM's way of writing a token as its number
CACHE_TYPE = re.compile(r'^vllm:cache_config_info\{.*\bcache_dtype="([^"]+)"', re.MULTILINE)


class Listener:
    """One server; a context manager. `api_key` as in `chat_once`."""

    def __init__(self, url: str, *, api_key: str | None = None) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._client = connect(self.url, api_key=api_key, timeout=600.0)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def server(self) -> Server:
        """Who answers. Raises `EnvironmentFault` where nobody does."""
        try:
            model = str(request_json(self._client, "GET", "/v1/models")["data"][0]["id"])
        except (KeyError, IndexError, TypeError) as error:
            raise EnvironmentFault(f"the server at {self.url} lists no model") from error
        props = self._asked("GET", "/props")
        if props is not None:
            defaults = props.get("default_generation_settings") or {}
            told = {
                "build": props.get("build_info"),
                "context": defaults.get("n_ctx"),
                "slots": props.get("total_slots"),
            }
            engine = "llama.cpp"
        else:
            version = self._asked("GET", "/version") or {}
            told = {"version": version.get("version"), "kv_cache": self._cache_type()}
            engine = "vLLM" if version else "unknown"
        settings = {name: str(value) for name, value in told.items() if value is not None}
        return Server(engine=engine, model=model, settings=settings)

    def listen(self, model: str, prompts: Sequence[Sequence[int]], *, new_tokens: int, top: int) -> list[Heard]:
        """What the engine writes behind each prompt of token ids, greedily, with the `top` most probable tokens.

        llama.cpp leaves out tokens that end inside a character, so all behind would be taken to follow something else:
        less is written then, and a prompt whose first token is such a one is left out.
        Raises `EnvironmentFault` where the server gives no log-probabilities, `UsageError` where it refuses a prompt.
        """
        found = [self._hear(model, prompt, new_tokens, top) for prompt in prompts]
        heard = [one for one in found if one is not None]
        if prompts and not heard:
            raise EnvironmentFault(
                f"the server at {self.url} tells none of the tokens that it writes: all end inside a character",
                hint="give other text with --text",
            )
        return heard

    def _hear(self, model: str, prompt: Sequence[int], new_tokens: int, top: int) -> Heard | None:
        wanted, places = new_tokens, self._written(model, prompt, new_tokens, top)
        while places is None and wanted > 1:
            wanted //= 2
            places = self._written(model, prompt, wanted, top)
        if places is None:
            return None
        return Heard(
            prompt=tuple(prompt),
            written=tuple(token for token, _ in places),
            top_ids=tuple(tuple(best) for _, best in places),
            top_logprobs=tuple(tuple(best.values()) for _, best in places),
        )

    def _written(
        self, model: str, prompt: Sequence[int], new_tokens: int, top: int
    ) -> list[tuple[int, dict[int, float]]] | None:
        """Every token that was written, with the most probable ones in its place; `None` where some are left out."""
        body = {
            "model": model, "prompt": [*prompt], "max_tokens": new_tokens, "temperature": 0, "logprobs": top,
            "ignore_eos": True, "cache_prompt": False, "return_tokens_as_token_ids": True,
        }  # fmt: skip
        answer = request_json(self._client, "POST", "/v1/completions", body)
        try:
            places = [*_places(answer["choices"][0]["logprobs"])]
            if any(not best or any(map(math.isnan, best.values())) for _, best in places):
                raise ValueError("a place without tokens")
            written = int(answer["usage"]["completion_tokens"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise self._silent() from error
        return places if 0 < written == len(places) else None

    def _silent(self) -> EnvironmentFault:
        return EnvironmentFault(
            f"the server at {self.url} gives no log-probabilities with `/v1/completions`",
            hint="llama.cpp and vLLM do; of vLLM check --max-logprobs",
        )

    def _cache_type(self) -> str | None:
        """What vLLM keeps keys and values in, which stands among its metrics."""
        try:
            found = CACHE_TYPE.search(self._client.get("/metrics").text)
        except httpx.HTTPError:
            return None
        return found and found[1]

    def tokens_of(self, model: str, text: str) -> tuple[int, ...] | None:
        """Token ids that the engine makes of a prompt, or `None` where it does not tell."""
        wanted = {"add_special": True, "parse_special": True, "add_special_tokens": True}  # theirs, theirs, vLLM's
        answer = self._asked("POST", "/tokenize", {"model": model, "content": text, "prompt": text, **wanted})
        return _ids(answer)

    def chat_tokens(self, model: str, messages: Sequence[Mapping[str, str]]) -> tuple[int, ...] | None:
        """Token ids that the engine makes of a chat before it answers, or `None` where it does not tell."""
        rendered = self._asked("POST", "/apply-template", {"messages": [*messages]})
        if rendered is not None and isinstance(rendered.get("prompt"), str):
            return self.tokens_of(model, rendered["prompt"])
        return _ids(
            self._asked("POST", "/tokenize", {"model": model, "messages": [*messages], "add_generation_prompt": True})
        )

    def _asked(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any] | None:
        """The answer of a path that not every server has."""
        try:
            return request_json(self._client, method, path, body)
        except UsageError:
            return None


def _ids(answer: Mapping[str, Any] | None) -> tuple[int, ...] | None:
    tokens = answer.get("tokens") if answer else None
    return tuple(int(token) for token in tokens) if isinstance(tokens, list) else None


def _places(logprobs: Mapping[str, Any]) -> Iterator[tuple[int, dict[int, float]]]:
    """Each token that was written, with the most probable ones in its place."""
    if "content" in logprobs:  # llama.cpp
        for place in logprobs["content"]:
            yield int(place["id"]), {int(one["id"]): float(one["logprob"]) for one in place["top_logprobs"]}
    else:  # vLLM
        for token, best in zip(logprobs["tokens"], logprobs["top_logprobs"], strict=True):
            yield _number(token), {_number(one): float(value) for one, value in best.items()}


def _number(token: str) -> int:
    return int(token.removeprefix(ID_PREFIX))
