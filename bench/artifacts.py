"""A float32 model from any tool's artifact, decoded without bitwright.

GGUF is decoded by transformers with `gguf` (hyperparameters too come from the file), compressed-tensors folders by
`compressed-tensors` with the scales widened to float32 first, GPTQ folders (AutoRound's, GPTQModel's) by the formula of
the format below, float folders by transformers. transformers' own decompression multiplies in the stored type of the
scales, bfloat16, and so rounds every weight once more; what is wanted here is what the file says.

Where a compressed-tensors folder says that inputs are rounded as they come (W8A8, FP8_DYNAMIC), `compressed-tensors`
rounds them before every such linear, for every tool alike. Stored input scales are refused.
"""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationConfig, apply_quantization_config
from compressed_tensors.quantization.lifecycle import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import Module
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel


def load(path: Path) -> PreTrainedModel:
    """A float32 model from a GGUF file, a compressed-tensors folder or a float folder."""
    if path.suffix == ".gguf":
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    else:
        document = getattr(AutoConfig.from_pretrained(path), "quantization_config", None)
        if document is None:
            model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        elif document["quant_method"] == "gptq":
            model = load_gptq(path, document)
        else:
            model = load_compressed_tensors(path)
    return model.eval()


def load_compressed_tensors(folder: Path) -> PreTrainedModel:
    """Weights decoded by compressed-tensors, module by module with the scheme that its own matching finds."""
    config = AutoConfig.from_pretrained(folder)
    document = config.quantization_config
    del config.quantization_config
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    quantization = QuantizationConfig.model_validate(document)
    apply_quantization_config(skeleton, quantization)
    stored = read_tensors(folder)
    rounded: dict[str, QuantizationArgs] = {}
    for name, module in skeleton.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        own = {key.rpartition(".")[2]: key for key in stored if key.rpartition(".")[0] == name}
        if scheme is None or "weight_scale" not in own:
            continue
        if scheme.input_activations is not None:
            if scheme.input_activations.dynamic is not True:
                raise SystemExit(f"{folder}: {name} stores a scale for its inputs; this judge knows dynamic ones only")
            rounded[name] = scheme.input_activations
        tensors = {local: stored.pop(key) for local, key in own.items()}
        tensors["weight_scale"] = tensors["weight_scale"].float()
        compressor = BaseCompressor.get_value_from_registry(scheme.format or document["format"])
        stored[f"{name}.weight"] = compressor.decompress(tensors, scheme)["weight"]
        if "bias" in tensors:
            stored[f"{name}.bias"] = tensors["bias"]
    model = model_with(config, stored)
    for name, arguments in rounded.items():
        model.get_submodule(name).register_forward_pre_hook(partial(round_inputs, arguments))
    return model


def round_inputs(arguments: QuantizationArgs, module: Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """The inputs of a linear as the engine's product sees them, by the rules of compressed-tensors."""
    scale, zero_point = compute_dynamic_scales_and_zp(inputs[0], arguments, module)
    return (fake_quantize(inputs[0], scale, zero_point, arguments),)


def model_with(config: PreTrainedConfig, stored: dict[str, torch.Tensor]) -> PreTrainedModel:
    """A float32 model that holds exactly these tensors."""
    if config.tie_word_embeddings:
        stored.setdefault("lm_head.weight", stored["model.embed_tokens.weight"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict({name: tensor.float() for name, tensor in stored.items()}, strict=True)
    return model


def load_gptq(folder: Path, document: dict[str, Any]) -> PreTrainedModel:
    """4-bit weights of a GPTQ folder: scales[g_idx[i], o] * (code - zero), eight codes a word, low bits first."""
    if document["bits"] != 4:
        raise SystemExit(f"{folder}: {document['bits']} bits; this judge decodes GPTQ files of 4 bits")
    # Version 1 stores zero - 1; version 2 the zero itself.
    offset = 0 if document.get("checkpoint_format", "gptq") == "gptq_v2" else 1
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    stored = read_tensors(folder)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    for key in [key for key in stored if key.endswith(".qweight")]:
        name = key.removesuffix(".qweight")
        words, zero_words = stored.pop(key), stored.pop(f"{name}.qzeros")
        scales, groups = stored.pop(f"{name}.scales").float(), stored.pop(f"{name}.g_idx").long()
        codes_IO = (words[:, None, :] >> shifts[None, :, None] & 15).reshape(-1, words.shape[1])
        zeros_GO = (zero_words[:, :, None] >> shifts & 15).reshape(len(zero_words), -1) + offset & 15
        stored[f"{name}.weight"] = (scales[groups] * (codes_IO - zeros_GO[groups])).T
    return model_with(config, stored)


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Every tensor of every safetensors file of a folder."""
    tensors = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as handle:
            tensors.update({key: handle.get_tensor(key) for key in handle.keys()})  # noqa: SIM118 (not a dict)
    return tensors


def first_blocks(model: PreTrainedModel, original: PreTrainedModel, count: int) -> PreTrainedModel:
    """The original with the first `count` decoder blocks of `model`, which may have no others."""
    joined = deepcopy(original)
    for index in range(count):
        joined.model.layers[index] = model.model.layers[index]
    return joined


def shortened(folder: Path, parent: Path, count: int) -> Path:
    """A copy of a float checkpoint under `parent` that ends after `count` decoder blocks; made once."""
    out = parent / f"{folder.name}-first{count}"
    if (out / "config.json").exists():
        return out
    out.mkdir(parents=True, exist_ok=True)
    for file in (*folder.glob("tokenizer*"), *folder.glob("*.jinja"), *folder.glob("generation_config.json")):
        shutil.copy(file, out)
    gone = {str(index) for index in range(count, AutoConfig.from_pretrained(folder).num_hidden_layers)}
    kept = {name: tensor for name, tensor in read_tensors(folder).items() if not _of_blocks(name, gone)}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"num_hidden_layers": count}
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return out


def _of_blocks(name: str, indices: set[str]) -> bool:
    return name.startswith("model.layers.") and name.split(".")[2] in indices
