"""The engine that serves an artifact, asked what the artifact itself was asked.

Introduces the room that talks to engines (`engines/logprobs.py`) to the one that judges (`evaluation/engine_check.py`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bitwright.api.behaviour import AUTO
from bitwright.core.behaviour import Suspect
from bitwright.core.heard import Reading
from bitwright.core.protocols import RoundsInputs

if TYPE_CHECKING:
    from bitwright.calibration.corpora import TokenWindows
    from bitwright.core.behaviour import EngineCheck
    from bitwright.core.heard import Server
    from bitwright.core.protocols import Progress, WeightSource
    from bitwright.engines.logprobs import Listener

PROMPTS, NEW_TOKENS, TOP = 12, 24, 20  # vLLM tells 20 at most unless it is started otherwise
LONGEST_PROMPT = 256
ROUNDS_INPUTS = "llama.cpp"  # whatever the file says; vLLM does as the artifact says
CACHE = "kv_cache"  # the setting's name, in records and of our llama.cpp server
EXACT_CACHES = ("f16", "f32", "bf16", "auto", "float16", "bfloat16")  # llama.cpp's words, and vLLM's
MESSAGES = (
    ({"role": "user", "content": "Which bird sings at night?"},),
    ({"role": "system", "content": "Answer in one word."}, {"role": "user", "content": "Is the sea salty?"}),
    (
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Blue."},
        {"role": "user", "content": "And another?"},
    ),
)


def check_engine(
    through: str,
    place: Path,
    models: tuple[WeightSource, WeightSource],
    windows: Sequence[TokenWindows],
    folder: Path,
    *,
    limit: float,
    api_key: str | None,
    progress: Progress,
) -> EngineCheck:
    """Listen to the server at `through`, or to one that is started for the artifact at `place` where that is `auto`.

    Raises `EnvironmentFault` where it cannot be reached or tells no log-probabilities.
    """
    from bitwright.calibration.corpora import load_tokenizer
    from bitwright.engines.logprobs import Listener
    from bitwright.evaluation.engine_check import allowed, departures, judge_engine

    tokenizer = load_tokenizer(folder)
    prompts = _prompts(windows)
    with _served(through, place, api_key) as (url, known), Listener(url, api_key=api_key) as listener:
        server = _with_settings(listener.server(), known)
        heard = listener.listen(server.model, prompts, new_tokens=NEW_TOKENS, top=TOP)
        begun = listener.listen(server.model, [[_middle(prompt)] for prompt in prompts], new_tokens=1, top=TOP)
        texts, chats = _texts(listener, server.model, tokenizer, prompts), _chats(listener, server.model, tokenizer)
    rounds = server.engine == ROUNDS_INPUTS and not isinstance(models[1], RoundsInputs)
    both = departures(*models, [*heard, *begun], rounds_inputs=rounds, progress=progress)
    found, first = both.of(0, len(heard)), both.of(len(heard))
    limit = allowed(limit, found)
    cache, departs, again = server.settings.get(CACHE), bool(found.decoded_to_engine.mean() > limit), None
    if departs and through == AUTO and cache is not None and cache not in EXACT_CACHES:
        again = _with_exact_cache(place, prompts, models, api_key, progress)
    return judge_engine(
        server, url, heard, found, first, limit=limit, texts=texts, chats=chats,
        cache=_cache_suspect(cache, departs, again, limit), decode=tokenizer.decode,
    )  # fmt: skip


def _prompts(windows: Sequence[TokenWindows]) -> list[list[int]]:
    """Beginnings of windows from all texts in turn."""
    import torch

    starts = torch.cat([text.tokens[:, :LONGEST_PROMPT] for text in windows])
    count = min(PROMPTS, len(starts))
    chosen: list[list[int]] = starts[torch.arange(count) * len(starts) // count].tolist()
    return chosen


def _middle(prompt: Sequence[int]) -> int:
    """A token of content: windows of chats all begin with the same one."""
    return prompt[len(prompt) // 2]


@contextlib.contextmanager
def _served(
    through: str, place: Path, api_key: str | None, kv_cache: str | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """The address, and settings that the server does not tell itself."""
    if through != AUTO:
        yield through, {}
        return
    from bitwright.api.service import serve

    with serve(place, port=0, api_key=api_key, kv_cache=kv_cache) as server:
        cache = getattr(server, CACHE, None)
        yield server.url, {} if cache is None else {CACHE: cache}


def _with_settings(server: Server, known: dict[str, str]) -> Server:
    import msgspec

    return msgspec.structs.replace(server, settings=server.settings | known)


def _texts(listener: Listener, model: str, tokenizer: Any, prompts: Sequence[Sequence[int]]) -> list[Reading]:
    """The same prompts as text: what engine and original make of them."""
    found = []
    for prompt in prompts:
        text = str(tokenizer.decode(prompt)).strip()
        found.append(
            Reading(asked=text, original=tuple(tokenizer.encode(text)), engine=listener.tokens_of(model, text))
        )
    return found


def _chats(listener: Listener, model: str, tokenizer: Any) -> list[Reading]:
    """Chats as both render them; those that the original's template refuses (some know no system) are left out."""
    from jinja2 import TemplateError

    found = []
    for messages in MESSAGES if tokenizer.chat_template else ():
        try:
            text = str(tokenizer.apply_chat_template([*messages], add_generation_prompt=True, tokenize=False))
        except TemplateError:
            continue
        ids = tuple(tokenizer.encode(text, add_special_tokens=False))
        found.append(Reading(asked=text, original=ids, engine=listener.chat_tokens(model, messages)))
    return found


def _with_exact_cache(
    place: Path,
    prompts: Sequence[Sequence[int]],
    models: tuple[WeightSource, WeightSource],
    api_key: str | None,
    progress: Progress,
) -> float:
    """Mean KL of an engine that is started again with keys and values in 16 bits."""
    from bitwright.engines.logprobs import Listener
    from bitwright.evaluation.engine_check import departures

    with _served(AUTO, place, api_key, "f16") as (url, _), Listener(url, api_key=api_key) as listener:
        heard = listener.listen(listener.server().model, prompts, new_tokens=NEW_TOKENS, top=TOP)
    return float(departures(*models, heard, progress=progress).decoded_to_engine.mean())


def _cache_suspect(cache: str | None, departs: bool, again: float | None, limit: float) -> Suspect:
    """`again` is the KL with an exact cache, where that was tried."""
    name = "KV cache"
    if cache is None:
        return Suspect(name=name, finding="not tested", evidence="the server does not tell the type of its cache")
    if again is not None:
        said = f"KL {again:.2g} with f16 in place of {cache}"
        return Suspect(name=name, finding="found" if again < limit else "cleared", evidence=said)
    blamed = departs and cache not in EXACT_CACHES
    return Suspect(name=name, finding="suspected" if blamed else "cleared", evidence=f"keys and values in {cache}")
