"""Our names of tensors against gguf's own map and transformers' own models."""

from __future__ import annotations

import re

import gguf
import msgspec
import pytest

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import ExpertFacts
from bitwright.facts.blocks import block_folds, block_groups, fused_modules
from bitwright.facts.families import (
    FAMILIES,
    LINEARS,
    Family,
    family_of,
    gguf_name,
    gguf_tensor,
    is_block_linear,
    layer_of,
)
from checkpoints import EXPERTS, tensor_shapes
from model_shapes import shaped_facts

ARCHITECTURES = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
MIXTURE = ExpertFacts(count=EXPERTS, per_token=2, intermediate=16)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_gguf_names_are_those_of_the_gguf_package(family: Family) -> None:
    table = gguf.get_tensor_name_map(ARCHITECTURES[family.gguf_architecture], 3)
    for name in family.all_tensors(3, tied=family.tied, experts=MIXTURE if family.experts else None):
        merged = re.sub(r"block_sparse_moe\.experts\.\d+", "feed_forward.experts", name)  # as the converter calls them
        merged = re.sub(r"experts\.\d+", "experts", merged)
        if "feed_forward" in merged:
            merged = merged.removeprefix("model.")
        assert gguf_tensor(gguf_name(name, family.name)) == table.get_name(merged, try_suffixes=(".weight", ".bias")), (
            name
        )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_the_list_of_tensors_is_complete(family: Family, tied: bool) -> None:
    shapes = tensor_shapes(
        family.name, hidden=8, layers=3, heads=2, kv_heads=1, head_dim=4, intermediate=16, vocab=32, tied=tied
    )
    assert set(family.all_tensors(3, tied=tied, experts=MIXTURE if family.experts else None)) == set(shapes)


def test_linears_are_told_from_other_tensors() -> None:
    assert is_block_linear("model.layers.12.mlp.down_proj.weight")
    for name in ("lm_head.weight", "model.layers.0.input_layernorm.weight", "model.layers.0.self_attn.q_proj.bias"):
        assert not is_block_linear(name)
    assert layer_of("model.layers.12.mlp.down_proj.weight") == 12
    assert layer_of("model.norm.weight") is None
    assert sum(len(modules) for modules in LINEARS.values()) == 7


def test_experts_are_linears_and_routers_are_not() -> None:
    for name in ("block_sparse_moe.experts.7.w2", "mlp.experts.127.up_proj", "mlp.shared_expert.down_proj"):
        assert is_block_linear(f"model.layers.3.{name}.weight")
    for name in ("block_sparse_moe.gate", "mlp.gate", "mlp.shared_expert_gate", "mlp.experts.up_proj"):
        assert not is_block_linear(f"model.layers.3.{name}.weight")


@pytest.mark.parametrize("family", list(FAMILIES))
def test_groups_hold_every_linear_once_and_folds_stay_inside_the_block(family: str) -> None:
    facts = shaped_facts(family)
    modules = [name.split(".", 3)[3] for name in FAMILIES[family].block_tensors(0, facts.experts)]
    linears = [module.removesuffix(".weight") for module in modules if is_block_linear(f"model.layers.0.{module}")]
    groups = block_groups(facts, 0)
    assert sorted(module for group in groups for module in group.linears) == sorted(linears)
    kept = {module.removesuffix(".weight") for module in modules} - set(linears)
    readers = [module for fold in block_folds(facts, 0) for module in fold.readers]
    assert sorted(readers) == sorted(linears)  # every linear has a place for its scale
    for fold in block_folds(facts, 0):
        assert fold.absorber in (kept if fold.kind == "norm" else linears)
        assert set(fold.carried) <= kept
    fused = [module for modules in fused_modules(facts, 0) for module in modules]
    assert len(fused) == len(set(fused))


def test_a_dense_block_among_sparse_ones_has_the_dense_groups() -> None:
    facts = shaped_facts("qwen3_moe")
    facts = msgspec.structs.replace(facts, experts=msgspec.structs.replace(facts.experts, dense_layers=(1,)))
    assert {group.name for group in block_groups(facts, 1)} == set(LINEARS)
    assert len(block_groups(facts, 0)) == 2 + 1 + 2 * 8


def test_an_unknown_architecture_is_refused_with_the_list() -> None:
    with pytest.raises(UnsupportedError, match="GemmaForCausalLM") as caught:
        family_of("GemmaForCausalLM")
    assert "LlamaForCausalLM" in (caught.value.hint or "")
