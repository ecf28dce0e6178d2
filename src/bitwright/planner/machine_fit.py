"""From runs of random models to what a weight, a block and a cached position cost on this machine.

A decoded token takes, and a token of a prompt of P takes,
    weights · decode + vocabulary · vocab + blocks · (block + token · hidden) + attention · context · heads · blocks
    weights · prefill + (head · decode + vocabulary · vocab) / P + blocks · (block / batch + token · hidden)
        + prompt attention · P / 2 · heads · head_dim · blocks
Models with few, large matrices tell types apart; one model with many narrow blocks, run with a short and a long prompt,
tells attention and the rest of a block; the same with a larger vocabulary tells what choosing a token takes beside the
weights of the head. Each needs the others' answers, so all are solved in turn. What a cached position takes while
decoding depends on how many queries share it, by no rule that was found: of two models, one with twice the heads of
keys and values, the geometric mean is told, and the first one's own goes into the rest.

Not here: the runs (engines/machine_runs.py), what follows for a model (machines.py, roofline.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from bitwright.core.machine import EngineRun, TypeCost

ROUNDS = 24  # each leaves less than half of the error
BATCH = 512  # tokens of a prompt that llama.cpp computes at once


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """Nanoseconds, as in MachineCalibration."""

    types: tuple[TypeCost, ...]
    vocab: float
    block: float
    token: float
    attention: float
    prompt_attention: float


def fit(
    large: Sequence[EngineRun],
    short: EngineRun,
    long: EngineRun,
    headed: EngineRun,
    paired: tuple[EngineRun, EngineRun],
) -> Fit:
    """`large` has a run for each type; `short` and `long` are of one narrow model, of a type that is among them,
    `headed` is `short` with a larger vocabulary, `paired` are both with more heads of keys and values."""
    attention = _attention(short, long)
    spread = _rows(short) * short.head_dim * (long.prompt_tokens - short.prompt_tokens) / 2
    prompt_attention = max(0.0, (_prompted(long) - _prompted(short)) / spread)
    found = Fit(types=(), vocab=0.0, block=0.0, token=0.0, attention=attention, prompt_attention=prompt_attention)
    for _ in range(ROUNDS):
        found = dataclasses.replace(found, types=tuple(_type_cost(run, found) for run in large))
        cost = next(cost for cost in found.types if cost.type == short.type)
        found = dataclasses.replace(found, vocab=_vocab(short, headed, cost))
        found = _besides(short, cost, found)
    other = _attention(*paired)
    return dataclasses.replace(found, attention=math.sqrt(attention * other) or max(attention, other))


def _attention(short: EngineRun, long: EngineRun) -> float:
    """What a cached position took while decoding, for each head and block."""
    return max(0.0, (_decoded(long) - _decoded(short)) / (_rows(short) * (_context(long) - _context(short))))


def _vocab(short: EngineRun, headed: EngineRun, cost: TypeCost) -> float:
    """What a larger vocabulary took beyond its weights."""
    beyond = _decoded(headed) - _decoded(short) - (headed.head_weights - short.head_weights) * cost.decode
    return max(0.0, beyond / (headed.vocab - short.vocab))


def _type_cost(run: EngineRun, found: Fit) -> TypeCost:
    beside = run.blocks * (found.block + found.token * run.hidden) + found.attention * _context(run) * _rows(run)
    beside += run.vocab * found.vocab
    decode = max(0.0, _decoded(run) - beside) / (run.block_weights + run.head_weights)
    once = run.head_weights * decode + run.vocab * found.vocab
    rest = _prompted(run) - once / run.prompt_tokens - _prompt_attention(run, found)
    beside = run.blocks * (found.block / min(run.prompt_tokens, BATCH) + found.token * run.hidden)
    return TypeCost(type=run.type, decode=decode, prefill=max(0.0, rest - beside) / run.block_weights)


def _besides(run: EngineRun, cost: TypeCost, found: Fit) -> Fit:
    """What the narrow model takes beside its matrices and attention: with each token, and once a step."""
    once = (run.block_weights + run.head_weights) * cost.decode + run.vocab * found.vocab
    step = max(0.0, _decoded(run) - once - found.attention * _context(run) * _rows(run)) / run.blocks
    once = run.head_weights * cost.decode + run.vocab * found.vocab
    matrices = run.block_weights * cost.prefill + once / run.prompt_tokens
    each = max(0.0, _prompted(run) - matrices - _prompt_attention(run, found)) / run.blocks
    token = min(each, step) / run.hidden
    return dataclasses.replace(found, token=token, block=step - token * run.hidden)


def _prompt_attention(run: EngineRun, found: Fit) -> float:
    return found.prompt_attention * run.prompt_tokens / 2 * _rows(run) * run.head_dim


def _rows(run: EngineRun) -> int:
    return run.heads * run.blocks


def _context(run: EngineRun) -> float:
    return run.prompt_tokens + run.decode_tokens / 2


def _decoded(run: EngineRun) -> float:
    return 1e9 / run.decode_tokens_s


def _prompted(run: EngineRun) -> float:
    return 1e9 / run.prompt_tokens_s
