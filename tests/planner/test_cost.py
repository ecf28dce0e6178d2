"""Dollars: the handbook's cost code and table, prices, and replicas that meet limits."""

from __future__ import annotations

import msgspec
import pytest

from bitwright.core.target import Limits
from bitwright.planner.cost import cost, per_million, replicas_for, replicas_needed
from bitwright.planner.speed import speed
from deployments import LLAMA_8B, LLAMA_70B, deployment, llama, target

MODEL = llama(**LLAMA_8B)


@pytest.mark.parametrize(
    ("bits", "gpus", "dollars", "table"),
    [(16, 2, 16.67, (4, 33.33)), (8, 1, 8.33, (2, 16.67)), (4, 1, 8.33, (1, 8.33))],
)
def test_the_handbooks_cost_code_contradicts_its_table(
    bits: int, gpus: int, dollars: float, table: tuple[int, float]
) -> None:
    """70B on H100 at $3, 100 tokens/s, batch 4: the code gives 2, 1 and 1 devices where the table prints 4, 2 and 1.
    The printed dollars are those of the printed devices, but FP16 needs two for its bytes and no more."""
    step = 70e9 * bits / 8 / 3.35e12
    assert replicas_for(100, 4 / step) == gpus
    assert per_million(3.0 * gpus, 100) == pytest.approx(dollars, abs=0.01)
    assert per_million(3.0 * table[0], 100) == pytest.approx(table[1], abs=0.01)


def test_a_70b_model_by_our_figures() -> None:
    """4 bits halve the dollars where a device is half idle; at one full batch each, fewer bytes are worth less."""
    model = llama(**LLAMA_70B)
    goal = msgspec.structs.replace(target("h100-sxm:2", prompt=512, output=512, concurrency=4), dollars_per_hour=3.0)
    found = {}
    for type, ways in (("BF16", 2), ("FP8_DYNAMIC", 1), ("W4A16", 1)):
        wish = deployment(model, type, goal, tensor_parallel=ways)
        rate = speed(wish)
        assert rate is not None
        money = cost(wish, rate)
        assert money is not None
        found[type] = money
    assert found["BF16"].dollars_per_hour.expected == 6.0
    assert found["W4A16"].dollars_per_hour.expected == 3.0
    low, high = (found[type].dollars_per_million_tokens.expected for type in ("W4A16", "BF16"))
    assert 2 < high / low < 4


def test_prices_of_the_table_and_of_the_request() -> None:
    goal = target("h100-sxm", prompt=512, output=512, concurrency=8)
    wish = deployment(MODEL, "BF16", goal, replicas=2)
    rate = speed(wish)
    assert rate is not None
    money = cost(wish, rate)
    price = goal.device.price
    assert money is not None
    assert price is not None
    assert (money.dollars_per_hour.low, money.dollars_per_hour.high) == (2 * price.low, 2 * price.high)
    assert (money.source, money.date) == (price.source, price.date)
    tokens = money.dollars_per_million_tokens
    assert tokens.low < tokens.expected < tokens.high
    assert tokens.low == pytest.approx(2 * price.low / 3.6e-3 / rate.tokens_per_second.high)
    asked = cost(deployment(MODEL, "BF16", msgspec.structs.replace(goal, dollars_per_hour=2.5)), rate)
    assert asked is not None
    assert asked.dollars_per_hour.low == asked.dollars_per_hour.high == 2.5
    free = msgspec.structs.replace(goal, device=msgspec.structs.replace(goal.device, price=None))
    assert cost(deployment(MODEL, "BF16", free), rate) is None


def test_replicas_that_meet_limits() -> None:
    goal = target("h100-sxm:8", prompt=512, output=512, concurrency=256)
    one = speed(deployment(MODEL, "BF16", goal))
    assert one is not None
    assert replicas_needed(deployment(MODEL, "BF16", goal)) == 1
    limit = Limits(user_tokens_per_second=2 * one.user_tokens_per_second.expected)
    count = replicas_needed(deployment(MODEL, "BF16", msgspec.structs.replace(goal, limits=limit)))
    assert count is not None
    assert count > 1
    wish = deployment(MODEL, "BF16", goal, replicas=count)
    fewer = deployment(MODEL, "BF16", goal, replicas=count - 1)
    found, worse = speed(wish), speed(fewer)
    assert found is not None
    assert worse is not None
    assert limit.user_tokens_per_second is not None
    assert found.user_tokens_per_second.expected >= limit.user_tokens_per_second
    assert worse.user_tokens_per_second.expected < limit.user_tokens_per_second
    never = msgspec.structs.replace(goal, limits=Limits(user_tokens_per_second=1e6))
    assert replicas_needed(deployment(MODEL, "BF16", never)) is None
