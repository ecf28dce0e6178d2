"""Costs that were put into runs come out of the fit."""

from __future__ import annotations

import msgspec
import pytest

from bitwright.core.machine import EngineRun
from bitwright.planner.machine_fit import BATCH, fit

VOCAB, BLOCK, TOKEN, ATTENTION, PROMPT_ATTENTION = 20.0, 9000.0, 4.0, 21.0, 0.04
COSTS = {"F16": (0.05, 0.02), "Q8_0": (0.03, 0.01), "Q4_K": (0.02, 0.012)}


def run(
    type: str,
    *,
    hidden: int,
    blocks: int,
    heads: int,
    weights: int,
    prompt: int,
    vocab: int = 4096,
    slower: float = 1.0,
) -> EngineRun:
    """What a machine of these costs would be measured as; `slower` is its attention."""
    decode, prefill = COSTS[type]
    head, decoded = vocab * hidden, 48
    rows = heads * blocks
    once = vocab * VOCAB
    attention = slower * ATTENTION * (prompt + decoded / 2) * rows
    token = (weights + head) * decode + once + blocks * (BLOCK + TOKEN * hidden) + attention
    each = (
        weights * prefill + (head * decode + once) / prompt + blocks * (BLOCK / min(prompt, BATCH) + TOKEN * hidden)
        + PROMPT_ATTENTION * prompt / 2 * rows * 64
    )  # fmt: skip
    return EngineRun(
        type=type, hidden=hidden, blocks=blocks, heads=heads, kv_heads=2, head_dim=64, block_weights=weights,
        head_weights=head, vocab=vocab,
        prompt_tokens=prompt, decode_tokens=decoded, prompt_tokens_s=1e9 / each, decode_tokens_s=1e9 / token,
    )  # fmt: skip


def test_the_fit_finds_what_was_put_in() -> None:
    large = [run(type, hidden=1024, blocks=4, heads=16, weights=45_000_000, prompt=256) for type in COSTS]
    short, long = (
        run("Q8_0", hidden=512, blocks=12, heads=8, weights=17_000_000, prompt=prompt) for prompt in (256, 1536)
    )
    headed = run("Q8_0", hidden=512, blocks=12, heads=8, weights=17_000_000, prompt=256, vocab=49152)
    first, then = (
        run("Q8_0", hidden=512, blocks=12, heads=8, weights=18_000_000, prompt=prompt, slower=1.44)
        for prompt in (256, 1536)
    )
    found = fit(large, short, long, headed, (first, then))
    assert found.vocab == pytest.approx(VOCAB, rel=0.02)
    for cost in found.types:
        assert (cost.decode, cost.prefill) == pytest.approx(COSTS[cost.type], rel=0.03)
    assert found.attention == pytest.approx(1.2 * ATTENTION, rel=0.01)  # between the two
    assert found.prompt_attention == pytest.approx(PROMPT_ATTENTION, rel=0.05)
    assert found.block + 512 * found.token == pytest.approx(BLOCK + 512 * TOKEN, rel=0.05)
    assert found.token == pytest.approx(TOKEN, rel=0.1)


def test_nothing_is_negative_on_a_machine_that_was_disturbed() -> None:
    large = [run(type, hidden=1024, blocks=4, heads=16, weights=45_000_000, prompt=256) for type in COSTS]
    short, long = (run("Q8_0", hidden=512, blocks=12, heads=8, weights=17_000_000, prompt=p) for p in (1536, 256))
    fewer = msgspec.structs.replace(short, vocab=short.vocab + 45056, decode_tokens_s=2 * short.decode_tokens_s)
    found = fit(large, short, long, fewer, (short, long))
    assert min(found.block, found.token, found.attention, found.prompt_attention) >= 0
    assert all(cost.decode >= 0 and cost.prefill >= 0 for cost in found.types)
