"""Tiny vision-language models of the real architectures, random, made and written by transformers; and an image each.

Weights have unit gain instead of transformers' small ones, so that what a wrong matrix does is seen in the logits.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitwright.core.protocols import WeightSource
from checkpoints import write_tokenizer, write_weights

VOCAB, IMAGE_TOKEN, PATCH, SIDE = 320, 300, 8, 32
TEXT = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 256, "pad_token_id": 2,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
    "patch_size": PATCH,
}  # fmt: skip
TURNED = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
QWEN_VISION = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "spatial_merge_size": 2}
IMAGE_TOKENS = {"llava": 16, "llava_next": 16}  # of the others 4
QWENS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FAMILIES = (
    "llava", "llava_next", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "idefics3", "smolvlm", "internvl", "gemma3",
    "mistral3",
)  # fmt: skip


def vision_config(family: str) -> Any:
    """The config of a tiny model."""
    import transformers as t

    both: dict[str, Any] = {"image_token_id": IMAGE_TOKEN, "tie_word_embeddings": False}
    wide = {"out_hidden_size": TEXT["hidden_size"], "hidden_size": 32, "intermediate_size": 64}
    match family:
        case "llava":
            return t.LlavaConfig(
                text_config=t.LlamaConfig(**TEXT), vision_config=t.CLIPVisionConfig(**VISION),
                image_token_index=IMAGE_TOKEN, tie_word_embeddings=False,
            )  # fmt: skip
        case "llava_next":
            return t.LlavaNextConfig(
                text_config=t.MistralConfig(**TEXT), vision_config=t.CLIPVisionConfig(**VISION),
                image_token_index=IMAGE_TOKEN, image_grid_pinpoints=[[SIDE, SIDE]], tie_word_embeddings=False,
            )  # fmt: skip
        case "qwen2_vl":
            vision = QWEN_VISION | {"embed_dim": 32, "hidden_size": TEXT["hidden_size"], "mlp_ratio": 2}
            return t.Qwen2VLConfig(text_config=TEXT | {"rope_parameters": TURNED}, vision_config=vision, **both)
        case "qwen2_5_vl":
            vision = QWEN_VISION | wide | {"fullatt_block_indexes": [1], "window_size": SIDE}
            return t.Qwen2_5_VLConfig(text_config=TEXT | {"rope_parameters": TURNED}, vision_config=vision, **both)
        case "qwen3_vl":
            vision = QWEN_VISION | wide | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
            text = TEXT | {"head_dim": 16, "rope_parameters": TURNED | {"mrope_interleaved": True}}
            return t.Qwen3VLConfig(text_config=text, vision_config=vision, **both)
        case "idefics3":
            return t.Idefics3Config(
                text_config=t.LlamaConfig(**TEXT), vision_config=VISION, scale_factor=2, pad_token_id=2, **both
            )
        case "smolvlm":
            return t.SmolVLMConfig(
                text_config=t.LlamaConfig(**TEXT), vision_config=VISION, scale_factor=2, pad_token_id=2, **both
            )
        case "internvl":
            pairs = {"image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]}
            return t.InternVLConfig(
                text_config=t.Qwen2Config(**TEXT), vision_config=VISION | pairs, image_seq_length=4, **both
            )
        case "gemma3":
            text = t.Gemma3TextConfig(**TEXT, head_dim=16, sliding_window=12, query_pre_attn_scalar=16)
            return t.Gemma3Config(
                text_config=text, vision_config=t.SiglipVisionConfig(**VISION, vision_use_head=False),
                image_token_index=IMAGE_TOKEN, mm_tokens_per_image=4,
            )  # fmt: skip
        case _:
            return t.Mistral3Config(
                text_config=t.MistralConfig(**TEXT, head_dim=16), vision_config=t.PixtralVisionConfig(**VISION),
                image_token_index=IMAGE_TOKEN, spatial_merge_size=2, tie_word_embeddings=False,
            )  # fmt: skip


def write_vision_model(folder: Path, family: str, *, seed: int = 0) -> Path:
    """A whole checkpoint in bf16, with a tokenizer and the files that a processor reads."""
    from transformers import AutoModelForImageTextToText, logging

    logging.disable_progress_bar()
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(vision_config(family), dtype=torch.float32)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.dim() > 1:
                value.normal_(std=(value[0].numel()) ** -0.5)
            elif "norm" in name and name.endswith("weight") and family != "gemma3":
                value.uniform_(0.8, 1.2)
            else:
                value.normal_(std=0.1)
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, vocab=IMAGE_TOKEN - 1)
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": {"height": SIDE, "width": SIDE}}))
    (folder / "processor_config.json").write_text(json.dumps({"processor_class": "Processor"}))
    return folder


def image_inputs(family: str) -> dict[str, torch.Tensor]:
    """Tokens with a place for an image in the middle, and the image as the model takes it."""
    count = IMAGE_TOKENS.get(family, 4)
    before, after = torch.arange(3, 15), torch.arange(40, 56)
    if family == "llava_next":
        count = 16 + 16 + 4  # the whole image, the same once more as its one tile, a line end per row of patches
    tokens = torch.cat([before, torch.full((count,), IMAGE_TOKEN), after])[None]
    drawn = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(7))
    inputs: dict[str, torch.Tensor] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    match family:
        case "llava_next":
            drawn = torch.stack([drawn[0], drawn[0].flip(0)])[None]
            return inputs | {"pixel_values": drawn, "image_sizes": torch.tensor([[SIDE, SIDE]])}
        case "mistral3":
            return inputs | {"pixel_values": drawn, "image_sizes": torch.tensor([[SIDE, SIDE]])}
        case "idefics3" | "smolvlm":
            return inputs | {"pixel_values": drawn[None]}
        case "qwen2_vl" | "qwen2_5_vl" | "qwen3_vl":
            patches = torch.randn(16, 3 * 2 * PATCH * PATCH, generator=torch.Generator().manual_seed(7))
            kinds = (tokens == IMAGE_TOKEN).int()
            return inputs | {
                "pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]]), "mm_token_type_ids": kinds
            }  # fmt: skip
        case _:
            return inputs | {"pixel_values": drawn}


def text_inputs() -> dict[str, torch.Tensor]:
    """Tokens alone."""
    tokens = (torch.arange(24) * 11 % 290)[None]
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


def load(folder: Path) -> Any:
    """The model as transformers loads it, in float32."""
    from transformers import AutoModelForImageTextToText, logging

    logging.disable_progress_bar()
    return AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """float32 [1, T, V]."""
    return torch.as_tensor(model(**inputs).logits.float())


def write_decoded(source: WeightSource, artifact: Path, folder: Path) -> Path:
    """What our readers decode, as a float checkpoint under the stored names."""
    folder.mkdir()
    tensors = {
        tensor.stored_name: np.asarray(source.load(tensor.name).float().numpy()) for tensor in source.facts.all_tensors
    }
    config = json.loads((artifact / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    write_weights(folder, tensors, dtype="F32")
    return folder
