"""Tokens per second of several GGUF files in one engine and one run.

Speeds of two files are worth comparing only if the machine was the same for both, so all files are loaded at once and
take turns (A B A B), each turn with the same prompt for every file, and the median over turns is kept. Each file has
one turn first that does not count: it maps the weights and wakes the threads. Prompts are random token ids that
differ from turn to turn, and the prompt cache is off, so nothing is answered from memory. The clock is llama.cpp's own
(`timings` of `/completion`), which leaves HTTP and tokenization out; it divides decoding time by the tokens after the
first, because the first one comes out of the prompt's pass.

Idle servers cost memory, not time: llama.cpp's threads sleep between requests.
"""

from __future__ import annotations

import contextlib
import math
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import psutil

from bitwright.core.errors import EnvironmentFault
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.provenance import provenance
from bitwright.core.records import SpeedPoint, SpeedRecord
from bitwright.engines.chat import connect, request_json
from bitwright.engines.llamacpp import LlamaCppServer

CONTEXT_MARGIN = 16
PROMPT_SEED = 0
LEAST_TURNS = 3


def measure(
    paths: Sequence[tuple[str, Path]],
    *,
    prompt_tokens: int = 256,
    decode_tokens: int = 64,
    repeats: int = 3,
    threads: int | None = None,
    pick: Callable[[Sequence[float]], float] = statistics.median,
    seconds: float = math.inf,
    progress: Progress = SILENT,
) -> SpeedRecord:
    """Measure the files of `paths`, given as (name, path). Rates are medians over `repeats`, in tokens per second.

    `pick` takes another one than the median: `max` is what the machine can do when nothing disturbs it. After
    `seconds`, and LEAST_TURNS that count, no further turn begins. `threads` defaults to the physical cores we may use.
    Errors as in `EngineServer.start`.
    """
    count, started = threads or physical_cores(), time.monotonic()
    rates: list[list[tuple[float, float]]] = [[] for _ in paths]
    with contextlib.ExitStack() as stack:
        progress.start("measuring speed", len(paths) * (repeats + 1), "turn")
        stack.callback(progress.stop)
        clients = [stack.enter_context(_open(stack, path, prompt_tokens + decode_tokens, count)) for _, path in paths]
        vocabulary = min(_vocabulary(client) for client in clients)
        for turn in range(repeats + 1):
            if turn > LEAST_TURNS and time.monotonic() - started > seconds:
                break
            prompt = random_prompt(turn, prompt_tokens, vocabulary)
            for client, kept in zip(clients, rates, strict=True):
                rate = _one_turn(client, prompt, decode_tokens)
                if turn > 0:
                    kept.append(rate)
                progress.advance()
    return SpeedRecord(
        engine=f"llama.cpp (xllamacpp {metadata.version('xllamacpp')})",
        threads=count,
        points=tuple(
            SpeedPoint(
                name=name,
                bytes=path.stat().st_size,
                prompt_tokens_s=pick([prompt for prompt, _ in kept]),
                decode_tokens_s=pick([decode for _, decode in kept]),
                prompt_tokens=prompt_tokens,
                decode_tokens=decode_tokens,
                repeats=len(kept),
            )
            for (name, path), kept in zip(paths, rates, strict=True)
        ),
        provenance=provenance(),
    )


def physical_cores() -> int:
    """Physical cores that this process may use: two threads of one core share the units that matrix products need."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, psutil.cpu_count(logical=False) or usable)


def random_prompt(turn: int, length: int, vocabulary: int) -> list[int]:
    """`length` token ids below `vocabulary`; equal turns give equal prompts."""
    source = random.Random(f"{PROMPT_SEED}/{turn}")
    return [source.randrange(vocabulary) for _ in range(length)]


def _open(stack: contextlib.ExitStack, path: Path, tokens: int, threads: int) -> httpx.Client:
    server = LlamaCppServer(path, port=0, context=tokens + CONTEXT_MARGIN, threads=threads, parallel=1)
    return connect(stack.enter_context(server).url, timeout=600.0)


def _vocabulary(client: httpx.Client) -> int:
    answer = request_json(client, "GET", "/v1/models")
    return int(answer["data"][0]["meta"]["n_vocab"])


def _one_turn(client: httpx.Client, prompt: list[int], decode_tokens: int) -> tuple[float, float]:
    """(prompt, decode) tokens per second of one request."""
    body = {"prompt": prompt, "n_predict": decode_tokens, "cache_prompt": False, "ignore_eos": True, "temperature": 0}
    timings: dict[str, Any] = request_json(client, "POST", "/completion", body)["timings"]
    done = (timings["prompt_n"], timings["predicted_n"])
    if done != (len(prompt), decode_tokens):
        raise EnvironmentFault(
            f"llama.cpp processed {done[0]} + {done[1]} tokens, expected {len(prompt)} + {decode_tokens}: "
            "its speeds would not be those of the request"
        )
    return float(timings["prompt_per_second"]), float(timings["predicted_per_second"])
