"""Names and configs of vision-language models: old and new, and as engines have them."""

from __future__ import annotations

import re
from typing import Any

import pytest

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import TensorFacts
from bitwright.facts.families import FAMILIES
from bitwright.facts.vision import (
    TEXT_DEFAULTS,
    TEXT_FAMILIES,
    VISION_FAMILIES,
    Part,
    decoder_config,
    is_part_linear,
    module_pattern,
    part_patterns,
    split,
)

LLAVA, QWEN, SMOL = (f"{name}ForConditionalGeneration" for name in ("Llava", "Qwen2VL", "SmolVLM"))
STORED = {  # a decoder linear as stored, as transformers 5 has it, as vLLM 0.32 has it
    LLAVA: (
        "language_model.model.layers.11.mlp.up_proj",
        "model.language_model.layers.11.mlp.up_proj",
        "language_model.model.layers.11.mlp.up_proj",
    ),
    QWEN: (
        "model.layers.11.mlp.up_proj",
        "model.language_model.layers.11.mlp.up_proj",
        "language_model.model.layers.11.mlp.up_proj",
    ),
    SMOL: ("model.text_model.layers.11.mlp.up_proj",) * 3,
}
TOWERS = {
    LLAVA: (
        "vision_tower.vision_model.encoder.layers.3.mlp.fc1",
        "model.vision_tower.vision_model.encoder.layers.3.mlp.fc1",
    ),
    QWEN: ("visual.blocks.3.attn.qkv", "model.visual.blocks.3.attn.qkv"),
    SMOL: ("model.vision_model.encoder.layers.3.mlp.fc1",) * 2,
}
PROJECTORS = {
    LLAVA: ("multi_modal_projector.linear_1", "model.multi_modal_projector.linear_1"),
    QWEN: ("visual.merger.mlp.0", "model.visual.merger.mlp.0"),
    SMOL: ("model.connector.modality_projection.proj",) * 2,
}  # fmt: skip


def matched(pattern: str, name: str) -> bool:
    """As compressed-tensors and vLLM do it."""
    assert pattern.startswith("re:")
    return re.match(pattern.removeprefix("re:"), name) is not None


@pytest.mark.parametrize("architecture", VISION_FAMILIES)
def test_every_decoder_name_is_found_under_every_prefix(architecture: str) -> None:
    family = VISION_FAMILIES[architecture]
    kind = TEXT_FAMILIES.get(family.text_type, family.text_type)
    for name in FAMILIES[kind].all_tensors(2, tied=False):
        if name.startswith("lm_head."):
            stored = [prefix + name.removeprefix("lm_head.") for prefix in family.heads]
        else:
            stored = [prefix + name.removeprefix("model.") for prefix in family.decoder]
        assert [family.place(one) for one in stored] == [("decoder", name)] * len(stored)


@pytest.mark.parametrize("architecture", [LLAVA, QWEN, SMOL])
def test_patterns_mean_one_module_under_all_names_and_no_other(architecture: str) -> None:
    family = VISION_FAMILIES[architecture]
    groups = (STORED[architecture], TOWERS[architecture], PROJECTORS[architecture])
    parts: tuple[Part, ...] = ("decoder", "vision tower", "projector")
    for names, part in zip(groups, parts, strict=True):
        assert family.place(f"{names[0]}.weight")[0] == part
        others = [name for group in groups if group is not names for name in group]
        patterns = [module_pattern(family, names[0], any_layer=any_layer) for any_layer in (False, True)]
        if part != "decoder":
            patterns += part_patterns(family, part)
            assert len(patterns) == 3
        for pattern in patterns:
            assert all(matched(pattern, name) for name in names), pattern
            assert not any(matched(pattern, name) for name in others), pattern
    exact, shared = (
        module_pattern(family, STORED[architecture][0], any_layer=any_layer) for any_layer in (False, True)
    )
    sibling = STORED[architecture][1].replace(".11.", ".1.")
    assert matched(shared, sibling)
    assert not matched(exact, sibling)
    assert not matched(shared, STORED[architecture][1].replace("up_proj", "up_proj_2"))


def test_a_tower_s_pattern_spares_a_projector_inside_it() -> None:
    family = VISION_FAMILIES["Qwen3VLForConditionalGeneration"]
    (tower,), projector = part_patterns(family, "vision tower"), part_patterns(family, "projector")
    for name in ("visual.merger.linear_fc1", "model.visual.deepstack_merger_list.0.linear_fc2"):
        assert not matched(tower, name)
        assert any(matched(pattern, name) for pattern in projector)
    assert matched(tower, "model.visual.blocks.0.mlp.linear_fc1")


def test_a_tensor_of_no_part_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="audio_tower"):
        VISION_FAMILIES[LLAVA].place("audio_tower.layers.0.weight")


def tensor(name: str, *shape: int) -> TensorFacts:
    return TensorFacts(name=name, shape=shape, dtype="BF16", file="model.safetensors", bytes=2)


def test_a_model_without_a_tower_is_refused() -> None:
    with pytest.raises(InputError, match="vision tower"):
        split(VISION_FAMILIES[LLAVA], [tensor("language_model.model.norm.weight", 4)])


def test_tables_and_patches_are_no_linears() -> None:
    linears = {
        "visual.blocks.0.attn.qkv.weight": (96, 32),
        "visual.pos_embed.weight": (16, 32),
        "vision_tower.embeddings.position_embedding.weight": (16, 32),
        "vision_tower.head.attention.out_proj.weight": (32, 32),
        "vision_tower.head.attention.in_proj_weight": (96, 32),
        "visual.patch_embed.proj.weight": (32, 3, 2, 8, 8),
        "visual.blocks.0.norm1.weight": (32,),
    }
    found = [name for name, shape in linears.items() if is_part_linear(tensor(name, *shape))]
    assert found == ["visual.blocks.0.attn.qkv.weight"]


# As on the hub: Qwen2-VL keeps the decoder's settings outside, LLaVA 1.5 leaves out what Llama's class has by default
FLAT: dict[str, Any] = {
    "architectures": [QWEN], "model_type": "qwen2_vl", "hidden_size": 1536, "intermediate_size": 8960,
    "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2, "max_position_embeddings": 32768,
    "rope_theta": 1000000.0, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}, "vocab_size": 151936,
    "tie_word_embeddings": True, "vision_config": {"depth": 32},
}  # fmt: skip
SPARSE: dict[str, Any] = {
    "architectures": [LLAVA], "model_type": "llava", "tie_word_embeddings": False, "vision_config": {"depth": 24},
    "text_config": {
        "model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "vocab_size": 32064,
    },
}  # fmt: skip


def test_a_flat_config_of_qwen2_vl() -> None:
    found = decoder_config(FLAT)
    assert (found["model_type"], found["architectures"]) == ("qwen2", ["Qwen2ForCausalLM"])
    assert found["rope_scaling"] == {"type": "default"}
    assert found["tie_word_embeddings"] is True
    assert "vision_config" not in found
    assert decoder_config({"model_type": "llama", "architectures": ["LlamaForCausalLM"]})["model_type"] == "llama"


def test_what_a_config_leaves_out_is_the_class_s_default() -> None:
    found = decoder_config(SPARSE)
    assert found["hidden_size"] == 4096
    assert found["num_key_value_heads"] == 32
    assert found["vocab_size"] == 32064


def test_defaults_are_those_of_transformers() -> None:
    from transformers import CONFIG_MAPPING

    for family, defaults in TEXT_DEFAULTS.items():
        config = CONFIG_MAPPING[family]()
        assert {key: getattr(config, key) for key in defaults} == defaults, family


@pytest.mark.parametrize(
    ("outer", "inner", "stored", "tied"),
    [
        (True, True, True, True),
        (False, False, False, False),
        (True, False, False, True),
        (False, True, True, False),
        (None, None, False, True),
        (None, None, True, False),
        (None, True, False, True),
    ],
)
def test_a_head_that_is_stored_settles_what_configs_disagree_on(
    outer: bool | None, inner: bool | None, stored: bool, tied: bool
) -> None:
    text = {"model_type": "llama"} | ({} if inner is None else {"tie_word_embeddings": inner})
    config = {"architectures": [LLAVA], "text_config": text} | ({} if outer is None else {"tie_word_embeddings": outer})
    names = ["language_model.lm_head.weight"] if stored else ["language_model.model.norm.weight"]
    assert decoder_config(config, names)["tie_word_embeddings"] is tied


def test_an_unknown_decoder_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="mamba"):
        decoder_config({"architectures": [LLAVA], "text_config": {"model_type": "mamba"}})
