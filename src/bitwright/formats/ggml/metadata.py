"""Hyperparameters: Hugging Face `config.json` ↔ GGUF keys, as far as all families share them.

Rotary scaling: `default`, `linear` and `yarn` are keys. `llama3` is a tensor `rope_freqs.weight` with one factor per
frequency, computed in float32 with upstream's order of operations; reading it back fits the three constants that made
it and checks them, because the file does not hold them. Other kinds are refused.

Not here: keys of single families (families.py), tokenizer (tokenizer.py), tensors (file.py,
reader.py).
Sources: llama.cpp conversion/base.py (TextModel.set_gguf_parameters), conversion/llama.py (generate_extra_tensors);
transformers modeling_rope_utils.py (names of the parameters, attention factor of yarn).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError, UnsupportedError, did_you_mean
from bitwright.core.plan import ModelFacts
from bitwright.facts.families import FAMILIES
from bitwright.formats.ggml.families import add_family_keys, family_config
from bitwright.formats.ggml.names import MODEL_TYPES, architecture

MIXTRAL = "mixtral"  # has the GGUF architecture of Llama
ROPE_TENSOR = "rope_freqs.weight"
ROPE_KEYS = {  # what each kind of scaling needs beside `rope_theta`
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
ROPE_BASE = 10000.0  # transformers' default
ROPE_BASES = {"mixtral": 1e6, "gemma3_text": 1e6}  # and where it is another
NORM_EPSILON = 1e-6
NORM_EPSILONS = {"mixtral": 1e-5, "phi3": 1e-5}
PARTIAL = ("phi3",)  # families whose rotary embedding may turn a part of each head
YARN_KEYS = {  # config name: GGUF key suffix
    "factor": "factor",
    "original_max_position_embeddings": "original_context_length",
    "extrapolation_factor": "yarn_ext_factor",
    "attention_factor": "attn_factor",
    "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}


def file_type(preset: str) -> int:
    """`general.file_type` of a preset name such as Q4_K_M. Raises `UnsupportedError`."""
    known = {kind.name.partition("_")[2]: int(kind) for kind in gguf.LlamaFileType}
    known["MXFP4"] = known["MXFP4_MOE"]  # llama.cpp has one number for MXFP4, whichever tensors have it
    preset = preset.removesuffix("-mix")  # a mixture starts from a preset and keeps its number
    if preset not in known:
        raise UnsupportedError(f"`{preset}` is not a GGUF file type", hint=did_you_mean(preset, sorted(known)))
    return known[preset]


def rope_parameters(config: Mapping[str, Any], *, family: str = "llama") -> dict[str, Any]:
    """Rotary parameters with `rope_type` and `rope_theta`, from the spelling of transformers 4 or 5.

    Where blocks differ (Gemma 3), those of the blocks that see everything.

    Raises `UnsupportedError` for a kind of scaling, or a partial rotation, that has no place in these architectures,
    `InputError` where a number that the kind needs is missing.
    """
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise InputError(f"config.json: rotary scaling is {given!r}, expected an object with `rope_type`")
    found = dict(given.get("full_attention") or given)
    found.setdefault("rope_type", found.pop("type", "default"))
    found.setdefault("rope_theta", config.get("rope_theta", ROPE_BASES.get(family, ROPE_BASE)))
    if found["rope_type"] not in list(ROPE_KEYS):
        raise UnsupportedError(
            f"rotary scaling `{found['rope_type']}` cannot be written as GGUF", hint=f"known: {', '.join(ROPE_KEYS)}"
        )
    found.setdefault("partial_rotary_factor", config.get("partial_rotary_factor", 1.0))
    if found["partial_rotary_factor"] != 1.0 and family not in PARTIAL:
        raise UnsupportedError("a partial rotary embedding cannot be written for this architecture")
    if found["rope_type"] == "yarn":
        found.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    for name in ("rope_theta", *ROPE_KEYS[found["rope_type"]]):
        if not isinstance(found.get(name), int | float):
            raise InputError(f"config.json: rotary scaling `{found['rope_type']}` has no number `{name}`")
    return found


def add_hyperparameters(writer: gguf.GGUFWriter, facts: ModelFacts, config: Mapping[str, Any]) -> None:
    """Write the model's dimensions and constants."""
    expected = FAMILIES[facts.family].activation
    if (activation := config.get("hidden_activation") or config.get("hidden_act") or expected) != expected:
        raise UnsupportedError(f"activation `{activation}` cannot be written as GGUF, expected `{expected}`")
    writer.add_block_count(facts.layers)
    writer.add_context_length(facts.context)
    writer.add_embedding_length(facts.hidden)
    writer.add_feed_forward_length(facts.intermediate)
    writer.add_head_count(facts.heads)
    writer.add_head_count_kv(facts.kv_heads)
    writer.add_key_length(facts.head_dim)
    writer.add_value_length(facts.head_dim)
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", NORM_EPSILONS.get(facts.family, NORM_EPSILON))))
    writer.add_vocab_size(facts.vocab)
    rope = rope_parameters(config, family=facts.family)
    writer.add_rope_dimension_count(int(facts.head_dim * rope["partial_rotary_factor"]))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(float(rope["factor"]))
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
        prefix = f"{architecture(facts.family)}.rope.scaling."
        for name in ("extrapolation_factor", "attention_factor", "beta_fast", "beta_slow"):
            if rope.get(name) is not None:
                writer.add_float32(prefix + YARN_KEYS[name], float(rope[name]))
    add_family_keys(writer, facts, config)


def rope_factors(rope: Mapping[str, Any], head_dim: int) -> NDArray[np.float32] | None:
    """`rope_freqs.weight` [head_dim / 2] of llama3 scaling, else `None`: what each frequency is divided by."""
    if rope["rope_type"] != "llama3":
        return None
    import torch  # a second, and no other kind of scaling needs it

    factor, low, high = float(rope["factor"]), float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    frequencies = 1.0 / (float(rope["rope_theta"]) ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim))
    wavelengths = 2 * math.pi / frequencies
    smooth = (context / wavelengths - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    factors = torch.where(wavelengths > context / low, torch.full_like(between, factor), between)
    factors = torch.where(wavelengths < context / high, torch.ones_like(factors), factors)
    return np.asarray(factors.numpy(), dtype=np.float32)


def config_from_metadata(
    metadata: Mapping[str, Any], *, vocab: int, tied: bool, biased: bool, factors: NDArray[np.float32] | None
) -> dict[str, Any]:
    """A `config.json` for transformers, from GGUF keys and what the tensors show.

    `biased`: q, k and v carry biases. Raises `InputError` when a key is missing, `UnsupportedError` for an unknown
    architecture or rotary scaling.
    """
    arch = str(metadata.get("general.architecture"))
    if arch not in MODEL_TYPES:
        raise UnsupportedError(f"GGUF architecture `{arch}` is not supported", hint=f"known: {', '.join(MODEL_TYPES)}")
    family = MIXTRAL if arch == "llama" and metadata.get("llama.expert_count") else MODEL_TYPES[arch]

    def need(key: str) -> Any:
        if f"{arch}.{key}" not in metadata:
            raise InputError(
                f"the GGUF file has no key `{arch}.{key}`", hint="the file is damaged or not a whole model"
            )
        return metadata[f"{arch}.{key}"]

    heads = int(need("attention.head_count"))
    hidden = int(need("embedding_length"))
    layers = int(need("block_count"))
    rope = _rope_from_metadata(metadata, arch, factors)
    config = {
        "architectures": [FAMILIES[family].architecture],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": int(need("feed_forward_length")),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": int(metadata.get(f"{arch}.attention.head_count_kv", heads)),
        "head_dim": int(metadata.get(f"{arch}.attention.key_length", hidden // heads)),
        "max_position_embeddings": int(need("context_length")),
        "rms_norm_eps": float(need("attention.layer_norm_rms_epsilon")),
        "rope_parameters": rope,
        "tie_word_embeddings": tied,
        "vocab_size": vocab,
    }
    if family in ("llama", "qwen3"):
        config |= {"attention_bias": biased}
    config |= family_config(family, need, metadata, arch, rope, layers)
    for name, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):
        if f"tokenizer.ggml.{key}_token_id" in metadata:
            config[f"{name}_token_id"] = int(metadata[f"tokenizer.ggml.{key}_token_id"])
    return config


def _rope_from_metadata(metadata: Mapping[str, Any], arch: str, factors: NDArray[np.float32] | None) -> dict[str, Any]:
    theta = float(metadata.get(f"{arch}.rope.freq_base", ROPE_BASE))
    kind = metadata.get(f"{arch}.rope.scaling.type", "none")
    if factors is not None:
        return _fit_llama3(factors, theta)
    if kind == "none":
        return {"rope_type": "default", "rope_theta": theta}
    if kind not in ("linear", "yarn"):
        raise UnsupportedError(
            f"rotary scaling `{kind}` in a GGUF file is not supported", hint="known: linear, yarn, llama3"
        )
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": theta}
    for name, key in YARN_KEYS.items():
        if (value := metadata.get(f"{arch}.rope.scaling.{key}")) is not None:
            rope[name] = value
    return rope


def _fit_llama3(factors: NDArray[np.float32], theta: float) -> dict[str, Any]:
    """The constants behind `rope_freqs.weight`. `1 / factor` is linear in the frequency between the two plateaus, and
    (context, low, high) matter only up to a common multiple, so low is set to 1."""
    factor = float(factors.max())
    inner = (factors > 1 + 1e-6) & (factors < factor * (1 - 1e-6))
    if np.count_nonzero(inner) < 2:
        raise UnsupportedError("the llama3 rotary scaling of this GGUF file cannot be told from its factors")
    exponent = np.arange(factors.size, dtype=np.float64)[inner] / factors.size
    smooth = (1 / factors[inner].astype(np.float64) - 1 / factor) / (1 - 1 / factor)
    slope, offset = np.polyfit(theta**-exponent / (2 * math.pi), smooth, 1)
    high = round(1 - 1 / offset, 4)
    rope = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": high,
        "original_max_position_embeddings": round(slope * (high - 1)),
    }
    remade = rope_factors(rope, 2 * factors.size)
    if remade is None or not np.allclose(remade, factors, rtol=1e-4):
        raise UnsupportedError("the rotary factors of this GGUF file are not those of llama3 scaling")
    return rope
