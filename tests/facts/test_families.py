"""Our names of tensors against gguf's own map and transformers' own models."""

from __future__ import annotations

import gguf
import pytest

from bitwright.core.errors import UnsupportedError
from bitwright.facts.families import FAMILIES, LINEARS, Family, family_of, gguf_name, is_block_linear, layer_of
from checkpoints import tensor_shapes

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_gguf_names_are_those_of_the_gguf_package(family: Family) -> None:
    table = gguf.get_tensor_name_map(ARCHITECTURES[family.gguf_architecture], 3)
    for name in family.all_tensors(3, tied=False):
        assert gguf_name(name) == table.get_name(name, try_suffixes=(".weight", ".bias"))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_the_list_of_tensors_is_complete(family: Family, tied: bool) -> None:
    shapes = tensor_shapes(
        family.name, hidden=8, layers=3, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=32, tied=tied
    )
    assert set(family.all_tensors(3, tied=tied)) == set(shapes)


def test_linears_are_told_from_other_tensors() -> None:
    assert is_block_linear("model.layers.12.mlp.down_proj.weight")
    for name in ("lm_head.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias"):
        assert not is_block_linear(name)
    assert layer_of("model.layers.12.mlp.down_proj.weight") == 12
    assert layer_of("model.norm.weight") is None
    assert sum(len(modules) for modules in LINEARS.values()) == 7


def test_an_unknown_architecture_is_refused_with_the_list() -> None:
    with pytest.raises(UnsupportedError, match="GemmaForCausalLM") as caught:
        family_of("GemmaForCausalLM")
    assert "LlamaForCausalLM" in (caught.value.hint or "")
