"""What the command lines of serving engines take, as recorded from their own parsers, and whether a line parses.

Not here: what flags mean, and which were removed when (engine_flags.py).
Sources: engine_options/README.md.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from bitwright.core.documents import Record

FOLDER = Path(__file__).parent / "engine_options"
FILES = {
    "vllm": "vllm",
    "sglang": "sglang",
    "lmdeploy": "lmdeploy",
    "llama.cpp": "llama_cpp",
    "tensorrt-llm": "tensorrt_llm",
    "tgi": "tgi",
}


class EngineOption(Record, frozen=True, kw_only=True):
    """One option. `takes` is how many values follow it: 0, 1, 2, ?, + or *."""

    names: tuple[str, ...]
    takes: str
    choices: tuple[str, ...] = ()
    default: str | None = None
    env: str | None = None


class EngineOptions(Record, frozen=True, kw_only=True):
    """All options of an engine in a version."""

    engine: str
    version: str
    options: tuple[EngineOption, ...]


class GivenOption(Record, frozen=True, kw_only=True):
    """An option as it stands on a line; `option` is None where the engine has none of this name."""

    name: str
    values: tuple[str, ...]
    option: EngineOption | None


@functools.cache
def engine_options(engine: str) -> EngineOptions:
    """The recorded options of an engine, one of `FILES`."""
    return msgspec.json.decode((FOLDER / f"{FILES[engine]}.json").read_bytes(), type=EngineOptions)


@functools.cache
def _by_name(engine: str) -> dict[str, EngineOption]:
    return {name: option for option in engine_options(engine).options for name in option.names}


def find_option(engine: str, name: str) -> EngineOption | None:
    """The option of this name. vLLM takes underscores for dashes, and argparse an unambiguous beginning."""
    known = _by_name(engine)
    if name in known:
        return known[name]
    if engine == "vllm":
        name = name.replace("_", "-")
        if name in known:
            return known[name]
    if engine in ("vllm", "sglang", "lmdeploy") and name.startswith("--"):
        found = {id(option): option for full, option in known.items() if full.startswith(name)}
        return next(iter(found.values())) if len(found) == 1 else None
    return None


def read_line(engine: str, words: Sequence[str]) -> Iterator[GivenOption]:
    """Options of a line in order, with their values. Words that belong to no option are left out."""
    place = 0
    while place < len(words):
        word = words[place]
        place += 1
        if not is_option(word):
            continue
        name, equals, value = word.partition("=") if word.startswith("--") else (word, "", "")
        option = find_option(engine, name)
        values = [value] if equals else []
        most = _most(option)
        while not equals and place < len(words) and len(values) < most and not is_option(words[place]):
            values.append(words[place])
            place += 1
        yield GivenOption(name=name, values=tuple(values), option=option)


def problems(engine: str, words: Sequence[str]) -> list[str]:
    """Why the engine's parser would refuse what follows the program's name; empty where it would not."""
    return [text for given in read_line(engine, words) if (text := problem(given))]


def problem(given: GivenOption) -> str | None:
    """What is wrong with one option on a line."""
    option, count = given.option, len(given.values)
    if option is None:
        return f"no option `{given.name}`"
    if option.takes == "0":
        return f"`{given.name}` takes no value" if count else None
    if (option.takes in "12" and count != int(option.takes)) or (option.takes == "+" and not count):
        return f"`{given.name}` needs a value"
    refused = [value for value in given.values if option.choices and value not in option.choices]
    return f"`{given.name}` cannot be {refused[0]}" if refused else None


def is_option(word: str) -> bool:
    """Whether a word is an option's name: a dash that begins no number."""
    return len(word) > 1 and word[0] == "-" and not word[1].isdigit() and word[1] != "."


def _most(option: EngineOption | None) -> int:
    if option is None:
        return 1  # perhaps its value
    return {"0": 0, "?": 1, "1": 1, "2": 2}.get(option.takes, 99)
