"""Each rewriting leaves the function of a small random Llama unchanged, and the weights not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bitwright.modeling.identities import Shape, Twins, Weights, rescale, shuffle, widen

SHAPE = Shape(layers=2, hidden=48, intermediate=80, groups=2, queries_per_group=3, head=8)


def build(shape: Shape, *, tied: bool, epsilon: float = 1e-5) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.groups * shape.queries_per_group,
        num_key_value_heads=shape.groups,
        head_dim=shape.head,
        rms_norm_eps=epsilon,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def random_model(*, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(1)
    model = build(SHAPE, tied=tied)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + ("norm" in name))
    return model


def logits(model: LlamaForCausalLM) -> torch.Tensor:
    tokens = torch.arange(40).reshape(2, 20) % 97
    with torch.no_grad():
        return model(tokens).logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("identity", [shuffle, rescale])
def test_the_function_stays(identity: Callable[..., None], tied: bool) -> None:
    model = random_model(tied=tied)
    weights: Weights = {name: value.clone() for name, value in model.state_dict().items()}
    identity(weights, SHAPE, torch.Generator().manual_seed(0))
    changed = build(SHAPE, tied=tied)
    changed.load_state_dict(weights)
    torch.testing.assert_close(logits(changed), logits(model), rtol=1e-4, atol=1e-4)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])]
    assert "model.layers.1.self_attn.o_proj.weight" in moved
    assert ("model.embed_tokens.weight" in moved) == (identity is shuffle)


@pytest.mark.parametrize("hidden", [54, 63, 90])  # multiples of the nine heads
def test_widening_keeps_the_function(hidden: int) -> None:
    model = random_model(tied=False)
    weights: Weights = dict(model.state_dict())
    shape = widen(weights, SHAPE, hidden, torch.Generator().manual_seed(0))
    assert (shape.hidden, shape.groups) == (hidden, 3)
    changed = build(shape, tied=False, epsilon=1e-5 * SHAPE.hidden / hidden)
    changed.load_state_dict(weights)
    torch.testing.assert_close(logits(changed), logits(model), rtol=1e-4, atol=1e-4)


def test_equal_seeds_give_equal_weights() -> None:
    drawn = []
    for seed in (0, 0, 1):
        weights: Weights = dict(random_model(tied=False).state_dict())
        widen(weights, SHAPE, 64, torch.Generator().manual_seed(seed))
        drawn.append(weights["model.layers.0.self_attn.q_proj.weight"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_twins_keep_the_sum_of_squares_and_readers_undo_writers() -> None:
    generator = torch.Generator().manual_seed(3)
    twins = Twins.draw(32, 48, generator)
    residual, reader = torch.randn(32, 5, generator=generator), torch.randn(7, 32, generator=generator)
    wide = twins.write(residual)
    torch.testing.assert_close(wide.square().sum(0), residual.square().sum(0))
    torch.testing.assert_close(twins.read(reader, generator) @ wide, reader @ residual, rtol=1e-5, atol=1e-5)
