"""Facts of whole checkpoints, of every family and of configs old and new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.facts.checkpoint import read_config
from bitwright.facts.families import FAMILIES
from bitwright.facts.model import model_facts, rope_theta
from checkpoints import MIXTURES, write_checkpoint


@pytest.mark.parametrize("style", [4, 5])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", list(FAMILIES))
def test_facts_agree_with_transformers(tmp_path: Path, family: str, tied: bool, style: int) -> None:
    folder = write_checkpoint(tmp_path / "model", family, tied=tied, config_style=style, shards=2)
    facts = model_facts(folder)
    model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(folder))
    assert facts.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert facts.bytes == 2 * facts.parameters
    held = {name: tuple(value.shape) for name, value in model.named_parameters()}
    if family not in MIXTURES:  # transformers holds all experts of a block in one array
        assert {tensor.name: tensor.shape for tensor in facts.tensors} == held
    assert (facts.family, facts.architecture, facts.dtype) == (family, type(model).__name__, "BF16")
    assert (facts.layers, facts.heads, facts.kv_heads, facts.head_dim) == (2, 4, 2, 16)
    assert (facts.tied, facts.context, facts.vocab) == (tied, 256, 320)
    if family != "gemma3_text":  # two of them
        assert rope_theta(read_config(folder)) == 10000.0


def test_absent_dimensions_follow_from_the_others(tmp_path: Path) -> None:
    absent = {"head_dim": None, "num_key_value_heads": None, "tie_word_embeddings": None}
    facts = model_facts(write_checkpoint(tmp_path / "model", kv_heads=4, overrides=absent))
    assert (facts.head_dim, facts.kv_heads, facts.tied) == (16, 4, False)


def test_heads_may_be_wider_than_the_residual_stream(tmp_path: Path) -> None:
    facts = model_facts(write_checkpoint(tmp_path / "model", "qwen3", head_dim=32))
    shapes = {tensor.name: tensor.shape for tensor in facts.tensors}
    assert shapes["model.layers.0.self_attn.q_proj.weight"] == (128, 64)


def test_a_stored_copy_of_a_tied_head_is_left_out(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", tied=False, overrides={"tie_word_embeddings": True})
    assert "lm_head.weight" not in {tensor.name for tensor in model_facts(folder).tensors}


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "architecture": ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, r"already quantized \(gptq\)"),
    "experts": ({"num_local_experts": 8}, "mixture of experts"),
    "bias": ({"attention_bias": True}, "attention_bias"),
    "activation": ({"hidden_act": "gelu"}, "gelu"),
}
INCONSISTENT: dict[str, tuple[dict[str, Any], str]] = {
    "no architecture": ({"architectures": None}, "names no architecture"),
    "heads do not divide": ({"num_key_value_heads": 3}, "expected a multiple"),
    "hidden size absent": ({"hidden_size": None}, "hidden_size is absent"),
    "layers a word": ({"num_hidden_layers": "2"}, "num_hidden_layers is '2'"),
    "layers negative": ({"num_hidden_layers": -1}, "num_hidden_layers is -1"),
    "more layers than weights": ({"num_hidden_layers": 3}, "lacks `model.layers.2"),
    "fewer layers than weights": ({"num_hidden_layers": 1}, "is no part of"),
    "other heads": ({"num_attention_heads": 2, "head_dim": 16}, r"q_proj.weight` has shape \[64, 64\]"),
    "other vocabulary": ({"vocab_size": 321}, "embed_tokens.weight` has shape"),
    "head width unknown": ({"num_attention_heads": 6, "head_dim": None}, "no head_dim"),
}


@pytest.mark.parametrize("case", UNSUPPORTED)
def test_models_that_are_not_served_are_named(tmp_path: Path, case: str) -> None:
    overrides, message = UNSUPPORTED[case]
    with pytest.raises(UnsupportedError, match=message):
        model_facts(write_checkpoint(tmp_path / "model", overrides=overrides))


@pytest.mark.parametrize("case", INCONSISTENT)
def test_config_and_weights_must_belong_together(tmp_path: Path, case: str) -> None:
    overrides, message = INCONSISTENT[case]
    with pytest.raises(InputError, match=message):
        model_facts(write_checkpoint(tmp_path / "model", overrides=overrides))


def test_an_absent_tensor_is_named(tmp_path: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    with pytest.raises(InputError, match=name):
        model_facts(write_checkpoint(tmp_path / "model", drop=(name,)))


def test_an_absent_head_hints_at_tying(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        model_facts(write_checkpoint(tmp_path / "model", drop=("lm_head.weight",)))
    assert "tie_word_embeddings" in (caught.value.hint or "")


def test_weights_of_another_dtype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="I64"):
        model_facts(write_checkpoint(tmp_path / "model", dtype="I64"))
