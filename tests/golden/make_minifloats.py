"""Make minifloats_llm_compressor.json: what llm-compressor stores of one small layer, presets with nearest codes.

Run with an interpreter that has `llmcompressor` (made with 0.14.0.1, compressed-tensors 0.19.0, torch 2.13.0, CPU):
    python tests/golden/make_minifloats.py tests/golden/minifloats_llm_compressor.json
"""

import json
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import torch
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import QuantizationModifier
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PRESETS = ("FP8_DYNAMIC", "FP8_BLOCK", "W8A8", "NVFP4A16", "MXFP4A16", "MXFP8A16")
LAYER = "model.layers.0.self_attn.q_proj"
SIZES = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "vocab_size": 64, "tie_word_embeddings": True,
}  # fmt: skip


def quantized(preset: str) -> dict[str, object]:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SIZES, dtype="float32")).float()
    weights = {
        part: model.get_submodule(LAYER.replace("q_proj", part)).weight for part in ("q_proj", "k_proj", "v_proj")
    }
    with torch.no_grad():
        for weight in weights.values():
            weight.mul_(torch.randn(64, 1).exp())
    weight = weights["q_proj"].detach().clone()
    peak = max(float(each.abs().max()) for each in weights.values())
    recipe = QuantizationModifier(targets=["Linear"], scheme=preset, ignore=["lm_head"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0})))
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        model.config._name_or_path = folder
        oneshot(model=model, recipe=recipe, tokenizer=tokenizer)
        model.save_pretrained(folder, save_compressed=True)
        stored = load_file(Path(folder) / "model.safetensors")
    parts = {name.removeprefix(LAYER + "."): value for name, value in stored.items() if name.startswith(LAYER + ".")}
    values = {}
    for name, value in parts.items():
        raw = value.view(torch.uint8) if value.dtype == torch.float8_e4m3fn else value
        values[name] = raw.float().tolist() if raw.is_floating_point() else raw.tolist()
    return {"preset": preset, "peak": peak, "weight": weight.tolist(), "stored": values}


cases = [quantized(preset) for preset in PRESETS]
versions = {name: metadata.version(name) for name in ("llmcompressor", "compressed-tensors", "torch", "transformers")}
weight, peak = cases[0]["weight"], cases[0]["peak"]
assert all(case.pop("weight") == weight and case.pop("peak") == peak for case in cases)
document = {"made_with": versions, "weight": weight, "peak": peak, "cases": cases}
Path(sys.argv[1]).write_text(json.dumps(document) + "\n")
