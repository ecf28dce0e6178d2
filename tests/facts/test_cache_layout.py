"""What layers keep of the tokens they saw, held against transformers' own configs and caches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from bitwright.core.attention import CacheGroup, CacheLayout, StateGroup
from bitwright.facts.cache_layout import cache_layout, layout_of
from bitwright.facts.families import FAMILIES
from bitwright.facts.model import model_facts
from checkpoints import write_checkpoint
from model_shapes import shaped_facts

TINY = {
    "hidden_size": 64, "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "vocab_size": 64, "intermediate_size": 64,
}  # fmt: skip
WINDOWED: dict[str, tuple[type[transformers.PreTrainedConfig], dict[str, Any]]] = {
    "gemma2": (transformers.Gemma2Config, {"sliding_window": 32}),
    "gemma3": (transformers.Gemma3TextConfig, {"sliding_window": 32}),
    "gemma3 with its own period": (transformers.Gemma3TextConfig, {"sliding_window": 32, "sliding_window_pattern": 4}),
    "cohere2": (transformers.Cohere2Config, {"sliding_window": 32}),
    "gpt-oss": (transformers.GptOssConfig, {"sliding_window": 32}),
    "qwen2 without windows": (transformers.Qwen2Config, {"sliding_window": 32, "use_sliding_window": False}),
    "qwen2 from its third layer on": (
        transformers.Qwen2Config, {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 2},
    ),
    "llama 4": (transformers.Llama4TextConfig, {"attention_chunk_size": 32, "intermediate_size_mlp": 64}),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WINDOWED))
@pytest.mark.parametrize("listed", [True, False], ids=["with layer_types", "as older configs are"])
def test_windows_are_where_transformers_puts_them(name: str, listed: bool) -> None:
    kind, more = WINDOWED[name]
    full = kind(**TINY, **more).to_dict()
    config = full if listed else {"model_type": full["model_type"]} | TINY | more
    layout = cache_layout(config)
    far = sum(kind == "full_attention" for kind in full["layer_types"])
    expected = [(far, None), (12 - far, 32)] if far < 12 else [(12, None)]
    assert [(group.layers, group.window) for group in layout.groups] == expected
    assert {(group.heads, group.key, group.value) for group in layout.groups} == {(2, 16, 16)}


def test_mistral_looks_back_a_window_in_every_layer_and_none_where_it_is_null() -> None:
    config = {"model_type": "mistral"} | TINY
    assert [group.window for group in cache_layout(config).groups] == [4096]
    assert [group.window for group in cache_layout(config | {"sliding_window": None}).groups] == [None]


def test_a_latent_is_one_vector_for_all_heads() -> None:
    """61 layers of 512 + 64 values: what DeepSeek-V3's report counts, 70 KB a token in 16 bits."""
    config = transformers.DeepseekV3Config().to_dict()
    assert cache_layout(config) == CacheLayout(groups=(CacheGroup(layers=61, heads=1, key=576, value=0),))


def test_states_of_gated_delta_nets_are_as_large_as_in_transformers() -> None:
    config = transformers.Qwen3NextConfig(
        **TINY, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=8, linear_value_head_dim=16,
        num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32, shared_expert_intermediate_size=32,
    )  # fmt: skip
    layout = cache_layout(config.to_dict())
    assert [group.layers for group in layout.groups] == [3]
    older = {key: value for key, value in config.to_dict().items() if key != "layer_types"}
    assert cache_layout(older | {"full_attention_interval": 4}) == layout
    model = transformers.AutoModelForCausalLM.from_config(config)
    cache = model(torch.zeros((1, 8), dtype=torch.long)).past_key_values
    kept = cache.layers[0]
    taps = config.linear_conv_kernel_dim
    expected = StateGroup(
        layers=9,
        convolution=kept.conv_states[0].numel() * (taps - 1) // taps,
        recurrent=kept.recurrent_states[0].numel(),
    )
    assert layout.states == (expected,)


def test_states_of_mamba() -> None:
    jamba = transformers.JambaConfig(**{key: value for key, value in TINY.items() if key != "head_dim"}).to_dict()
    layout = cache_layout(jamba)
    kinds = transformers.JambaConfig(num_hidden_layers=12).layers_block_type
    assert [group.layers for group in layout.groups] == [kinds.count("attention")]
    assert layout.states == (StateGroup(layers=kinds.count("mamba"), convolution=128 * 3, recurrent=128 * 16),)
    bamba = TINY | {
        "layer_types": ["mamba", "attention"] * 6, "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 32,
        "mamba_d_conv": 4, "mamba_n_groups": 1,
    }  # fmt: skip
    assert cache_layout(bamba).states == (StateGroup(layers=6, convolution=(128 + 64) * 3, recurrent=128 * 32),)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_checkpoint_has_a_layout(tmp_path: Path, family: str) -> None:
    facts = model_facts(write_checkpoint(tmp_path / "model", family))
    assert facts.cache is not None
    assert sum(group.layers for group in facts.cache.groups) == facts.layers
    assert {(group.heads, group.key) for group in facts.cache.groups} == {(facts.kv_heads, facts.head_dim)}


def test_facts_without_a_layout_look_at_all_tokens() -> None:
    group = CacheGroup(layers=2, heads=2, key=64, value=64)
    assert layout_of(shaped_facts()) == CacheLayout(groups=(group,))
