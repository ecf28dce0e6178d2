"""Merged adapters against PEFT's own merge, composition over other sources, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bitwright import api
from bitwright.core.errors import BitwrightError, InputError, MismatchError, UnsupportedError
from bitwright.core.plan import CalibrationPlan
from bitwright.formats.adapters.lora import LoraSource
from bitwright.formats.original import open_original
from bitwright.formats.sniff import gguf_file
from checkpoints import write_checkpoint
from command_line import text_file

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
CHOICES: dict[str, dict[str, Any]] = {
    "plain": {"target_modules": ATTENTION},
    "all linears": {"target_modules": "all-linear", "r": 3, "lora_alpha": 7},
    "rank-stabilized": {"target_modules": ATTENTION, "use_rslora": True, "lora_alpha": 5},
    "patterns": {
        "target_modules": [*ATTENTION, "down_proj"],
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 6},
        "alpha_pattern": {"^model.layers.0.self_attn.v_proj": 9, "down_proj": 3},
    },
    "DoRA": {"target_modules": ["q_proj", "up_proj"], "use_dora": True},
    "modules saved whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "v_proj"]},
    "stored the other way round": {"target_modules": ["o_proj"], "fan_in_fan_out": True},
    "biases": {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"},
}


def trained(folder: Path, adapter: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Write an adapter with random weights by PEFT, and give PEFT's merged weights."""
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(1)
    model = peft.get_peft_model(base, peft.LoraConfig(**({"r": 4, "lora_alpha": 8} | settings)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(adapter)
    merged: dict[str, torch.Tensor] = model.merge_and_unload().state_dict()
    return merged


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", hidden=32, heads=4, kv_heads=2, intermediate=48, layers=2, dtype="F32")


def by_hand(folder: Path, *, module: str = "model.layers.0.self_attn.q_proj", **settings: Any) -> Path:
    """An adapter on one module, written without PEFT."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"} | settings
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator = torch.Generator().manual_seed(5)
    factors = {"A": torch.randn(2, 32, generator=generator), "B": torch.randn(32, 2, generator=generator)}
    tensors = {f"base_model.model.{module}.lora_{key}.weight": value for key, value in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", CHOICES)
def test_the_merged_weights_are_those_of_peft(kind: str, tmp_path: Path) -> None:
    family = "qwen2" if kind == "biases" else "llama"
    folder = write_checkpoint(
        tmp_path / "model", family, hidden=32, heads=4, kv_heads=2, intermediate=48, layers=2, dtype="F32"
    )
    expected = trained(folder, tmp_path / "adapter", **CHOICES[kind])
    source = LoraSource(open_original(folder), tmp_path / "adapter")
    plain = open_original(folder)
    changed = 0
    for name in source.names():
        merged = source.load(name)
        torch.testing.assert_close(merged, expected[name].float(), rtol=1e-5, atol=1e-6)
        changed += not torch.equal(merged, plain.load(name))
    assert changed >= 2


def test_a_formula_of_our_own(folder: Path, tmp_path: Path) -> None:
    adapter = by_hand(tmp_path / "adapter", use_rslora=True)
    stored = load_file(adapter / "adapter_model.safetensors")
    down, up = (
        next(tensor for name, tensor in stored.items() if f"lora_{part}" in name).double() for part in ("A", "B")
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = open_original(folder).load(name).double() + 6 / math.sqrt(2) * up @ down
    found = open_original(folder, adapter).load(name)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_adapter_is_part_of_the_identity(folder: Path, tmp_path: Path) -> None:
    first, second = by_hand(tmp_path / "a"), by_hand(tmp_path / "b", lora_alpha=7)
    prints = {open_original(folder, adapter).facts.fingerprint for adapter in (None, first, second)}
    assert len(prints) == 3
    text = text_file(tmp_path / "text.txt")
    calibration = CalibrationPlan(source=(str(text),), samples=2, length=32)
    plan = api.plan(folder, type="Q8_0", lora=first, calibration=calibration)
    api.quantize(plan, tmp_path / "out")
    moved = first.rename(tmp_path / "elsewhere")
    assert api.quantize(plan, tmp_path / "out", lora=moved).plan.model.adapter == str(first)
    with pytest.raises(MismatchError, match="begun with another plan"):
        api.quantize(api.plan(folder, type="Q8_0", lora=second, calibration=calibration), tmp_path / "out")
    with pytest.raises(MismatchError, match="with the adapter"):
        api.quantize(plan, tmp_path / "new", lora=second)


def test_a_gguf_base_and_the_judgement_of_the_result(folder: Path, tmp_path: Path) -> None:
    adapter = by_hand(tmp_path / "adapter")
    texts = [text_file(tmp_path / "text.txt"), text_file(tmp_path / "other.txt", step=6007)]
    calibration = CalibrationPlan(source=(str(texts[0]),), samples=2, length=32)
    api.quantize(api.plan(folder, type="F16", calibration=calibration), tmp_path / "f16")
    base = gguf_file(tmp_path / "f16")
    api.quantize(api.plan(base, type="Q8_0", lora=adapter, calibration=calibration), tmp_path / "out")
    judged = {"texts": texts[1:], "windows": 2, "length": 32}
    record = api.validate(gguf_file(tmp_path / "out"), base, lora=adapter, **judged)
    assert record.texts[0].kl_mean.value < 3e-3
    with pytest.raises(MismatchError, match="was made from"):
        api.validate(gguf_file(tmp_path / "out"), base, **judged)


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"peft_type": "IA3"}, UnsupportedError, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, UnsupportedError, "changes the base"),
        ({"lora_bias": True}, UnsupportedError, "lora_bias"),
        ({"target_parameters": ["experts.up"]}, UnsupportedError, "target_parameters"),
        ({"trainable_token_indices": [3]}, UnsupportedError, "trainable_token_indices"),
        ({"r": 0}, InputError, "r is 0"),
        ({"r": 3}, MismatchError, "shapes"),
        ({"lora_alpha": "x"}, InputError, "lora_alpha"),
        ({"rank_pattern": {"(": 2}}, InputError, "regular expression"),
        ({"use_dora": True}, InputError, "DoRA"),
        ({"module": "model.layers.7.self_attn.q_proj"}, MismatchError, "does not have"),
        ({"module": "model.layers.0.mlp.down_proj"}, MismatchError, "shapes"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(
    settings: dict[str, Any], error: type[BitwrightError], word: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=word):
        open_original(folder, by_hand(tmp_path / "adapter", **settings))


def test_pickles_and_empty_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    adapter = by_hand(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(InputError, match="pickle"):
        open_original(folder, adapter)
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        open_original(folder, folder)


def test_an_embedding_that_is_also_the_head_is_left_to_its_owner(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", hidden=32, heads=4, kv_heads=2, intermediate=48, tied=True)
    adapter = tmp_path / "adapter"
    by_hand(adapter)
    table = torch.zeros(320, 32)
    save_file({"base_model.model.model.embed_tokens.weight": table}, adapter / "adapter_model.safetensors")
    with pytest.raises(UnsupportedError, match="also the output head"):
        open_original(folder, adapter)
