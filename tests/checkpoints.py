"""Tiny Hugging Face folders, made by hand: random weights, a real tokenizer, one to many shards.

Why by hand: the safetensors bytes come from the standard library, so that readers are tested against the format and
not against another writer of ours; and nothing is downloaded.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
GEMMAS = ("gemma2", "gemma3_text")
MIXTURES = ("mixtral", "qwen2_moe", "qwen3_moe")
EXPERTS, PER_TOKEN, SHARED = 4, 2, 192  # of the mixtures; the width of Qwen2-MoE's shared expert
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NUMPY_TYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}


def write_checkpoint(
    folder: Path,
    family: str = "llama",
    *,
    hidden: int = 64,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int | None = None,
    intermediate: int = 128,
    vocab: int = 320,
    context: int = 256,
    tied: bool = False,
    shards: int = 1,
    dtype: str = "BF16",
    seed: int = 0,
    config_style: int = 5,
    overrides: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
) -> Path:
    """Write a whole checkpoint folder and return it.

    `config_style` is the major version of transformers whose `config.json` is imitated; `overrides` are laid over the
    config (a value of `None` removes the key); tensors named in `drop` are left out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    width = head_dim or hidden // heads
    config = _config(family, hidden, layers, heads, kv_heads, width, intermediate, vocab, context, tied, config_style)
    for key, value in (overrides or {}).items():
        if value is None:
            config.pop(key, None)
        else:
            config[key] = value
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    shapes = tensor_shapes(
        family, hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=width,
        intermediate=intermediate, vocab=vocab, tied=tied,
    )  # fmt: skip
    centre = 0 if family in GEMMAS else 1
    weights = random_weights(shapes, seed=seed, centre=centre)
    tensors = {name: value for name, value in weights.items() if name not in drop}
    write_weights(folder, tensors, shards=shards, dtype=dtype)
    write_tokenizer(folder, vocab=vocab)
    return folder


def write_hollow(
    folder: Path, *, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, vocab: int
) -> Path:
    """A Llama checkpoint of any size whose weights are a hole in the file: for what reads headers alone."""
    folder.mkdir(parents=True)
    width = hidden // heads
    config = _config("llama", hidden, layers, heads, kv_heads, width, intermediate, vocab, 8192, False, 5)
    (folder / "config.json").write_text(json.dumps(config))
    shapes = tensor_shapes(
        "llama", hidden=hidden, layers=layers, heads=heads, kv_heads=kv_heads, head_dim=width,
        intermediate=intermediate, vocab=vocab, tied=False,
    )  # fmt: skip
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    start = with_header(header, b"")
    with open(folder / "model.safetensors", "wb") as handle:
        handle.write(start)
        handle.truncate(len(start) + end)
    write_tokenizer(folder)
    return folder


def tensor_shapes(
    family: str, *, hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, intermediate: int, vocab: int,
    tied: bool,
) -> dict[str, tuple[int, ...]]:  # fmt: skip
    """Every tensor of the model under its Hugging Face name."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocab, hidden)}
    outputs = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
    for layer in range(layers):
        block = f"model.layers.{layer}."
        shapes[block + "input_layernorm.weight"] = (hidden,)
        shapes[block + "post_attention_layernorm.weight"] = (hidden,)
        if family in GEMMAS:
            shapes[block + "pre_feedforward_layernorm.weight"] = (hidden,)
            shapes[block + "post_feedforward_layernorm.weight"] = (hidden,)
        if family == "phi3":
            shapes[f"{block}self_attn.qkv_proj.weight"] = (sum(outputs.values()), hidden)
        else:
            for part, rows in outputs.items():
                shapes[f"{block}self_attn.{part}_proj.weight"] = (rows, hidden)
                if family in ("qwen2", "qwen2_moe"):
                    shapes[f"{block}self_attn.{part}_proj.bias"] = (rows,)
        shapes[block + "self_attn.o_proj.weight"] = (hidden, heads * head_dim)
        if family in ("qwen3", "gemma3_text", "qwen3_moe"):
            shapes[block + "self_attn.q_norm.weight"] = (head_dim,)
            shapes[block + "self_attn.k_norm.weight"] = (head_dim,)
        shapes |= {block + name: shape for name, shape in feed_forward_shapes(family, hidden, intermediate).items()}
    shapes["model.norm.weight"] = (hidden,)
    if not tied:
        shapes["lm_head.weight"] = (vocab, hidden)
    return shapes


def feed_forward_shapes(family: str, hidden: int, intermediate: int) -> dict[str, tuple[int, ...]]:
    """The matrices of one block's feed-forward part."""

    def gated(prefix: str, width: int, names: tuple[str, str, str]) -> dict[str, tuple[int, ...]]:
        gate, up, down = (f"{prefix}{name}.weight" for name in names)
        return {gate: (width, hidden), up: (width, hidden), down: (hidden, width)}

    plain = ("gate_proj", "up_proj", "down_proj")
    if family == "phi3":
        return {"mlp.gate_up_proj.weight": (2 * intermediate, hidden), "mlp.down_proj.weight": (hidden, intermediate)}
    if family not in MIXTURES:
        return gated("mlp.", intermediate, plain)
    block, names = ("block_sparse_moe.", ("w1", "w3", "w2")) if family == "mixtral" else ("mlp.", plain)
    shapes: dict[str, tuple[int, ...]] = {f"{block}gate.weight": (EXPERTS, hidden)}
    for expert in range(EXPERTS):
        shapes |= gated(f"{block}experts.{expert}.", intermediate, names)
    if family == "qwen2_moe":
        shapes |= gated("mlp.shared_expert.", SHARED, plain) | {"mlp.shared_expert_gate.weight": (1, hidden)}
    return shapes


def random_weights(
    shapes: dict[str, tuple[int, ...]], *, seed: int, centre: float = 1
) -> dict[str, NDArray[np.float32]]:
    """Norms near `centre`, biases small, matrices with unit gain and a few loud input channels, as real models have."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in shapes.items():
        draw = rng.standard_normal(shape).astype(np.float32)
        if len(shape) == 1:
            weights[name] = 0.1 * draw if name.endswith("bias") else centre + 0.1 * draw
        else:
            loudness = np.exp(0.5 * rng.standard_normal(shape[1])).astype(np.float32)
            weights[name] = draw * loudness / np.float32(np.sqrt(shape[1]))
    return weights


def write_weights(
    folder: Path, tensors: dict[str, NDArray[np.float32]], *, shards: int = 1, dtype: str = "BF16"
) -> None:
    """`model.safetensors`, or shards with their index."""
    if shards == 1:
        (folder / "model.safetensors").write_bytes(safetensors_bytes(tensors, dtype=dtype))
        return
    names, weight_map = list(tensors), {}
    for number, part in enumerate(np.array_split(np.arange(len(names)), shards), start=1):
        file = f"model-{number:05d}-of-{shards:05d}.safetensors"
        held = {names[i]: tensors[names[i]] for i in part}
        (folder / file).write_bytes(safetensors_bytes(held, dtype=dtype))
        weight_map |= dict.fromkeys(held, file)
    size = sum(value.size for value in tensors.values()) * np.dtype(NUMPY_TYPES[dtype]).itemsize
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def safetensors_bytes(tensors: dict[str, NDArray[np.float32]], *, dtype: str = "BF16") -> bytes:
    """A safetensors file: 8 little-endian bytes of header length, JSON, data without holes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, value in tensors.items():
        raw = float_bytes(value, dtype)
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    return with_header(header, bytes(data))


def with_header(header: dict[str, Any], data: bytes) -> bytes:
    """Header and data as one file; for tests that need a header that lies."""
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def float_bytes(value: NDArray[np.float32], dtype: str) -> bytes:
    """Little-endian bytes; bf16 rounds to nearest even and keeps NaN and infinity."""
    value = np.ascontiguousarray(value, dtype="<f4")
    if dtype != "BF16":
        return value.astype(NUMPY_TYPES[dtype]).tobytes()
    bits = value.view("<u4")
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    kept = np.where(np.isfinite(value), rounded, bits | (0x10000 * np.isnan(value)).astype("<u4"))
    return (kept >> 16).astype("<u2").tobytes()


def write_tokenizer(folder: Path, *, vocab: int = 320) -> None:
    """A byte-level BPE tokenizer of at most `vocab` tokens: three special ones, 256 bytes, then pairs of letters."""
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = list(itertools.product("etaoinshrdlu", repeat=2))[: max(vocab - len(tokens), 0)]
    tokens += [left + right for left, right in merges]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "model_max_length": 256,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)


def _config(
    family: str, hidden: int, layers: int, heads: int, kv_heads: int, head_dim: int, intermediate: int, vocab: int,
    context: int, tied: bool, style: int,
) -> dict[str, Any]:  # fmt: skip
    config: dict[str, Any] = {
        "architectures": [ARCHITECTURES[family]],
        "model_type": family,
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "vocab_size": vocab,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    if family in ("llama", "qwen3", "qwen3_moe", *GEMMAS) or head_dim * heads != hidden:
        config["head_dim"] = head_dim
    if family == "llama":
        config |= {"attention_bias": False, "mlp_bias": False}
    if family in ("mistral", "phi3", "mixtral"):
        config["sliding_window"] = None
    if family in GEMMAS:
        config |= {"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 12, "query_pre_attn_scalar": head_dim}
        config["hidden_act"] = "gelu_pytorch_tanh"
    if family == "gemma2":
        config |= {"attn_logit_softcapping": 5.0, "final_logit_softcapping": 8.0}
    if family == "phi3":
        config |= {"original_max_position_embeddings": context, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    if family == "mixtral":
        config |= {"num_local_experts": EXPERTS, "num_experts_per_tok": PER_TOKEN}
    if family in ("qwen2_moe", "qwen3_moe"):
        config |= {"num_experts": EXPERTS, "num_experts_per_tok": PER_TOKEN, "moe_intermediate_size": intermediate}
        config |= {"norm_topk_prob": family == "qwen3_moe", "decoder_sparse_step": 1, "mlp_only_layers": []}
    if family == "qwen2_moe":
        config["shared_expert_intermediate_size"] = SHARED
    if style >= 5:
        config |= {"dtype": "bfloat16", "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    else:
        config |= {"torch_dtype": "bfloat16", "rope_theta": 10000.0}
    if family == "gemma3_text":
        config["layer_types"] = [("sliding_attention", "full_attention")[index % 2] for index in range(layers)]
        turning = {"sliding_attention": 10000.0, "full_attention": 1000000.0}
        if style >= 5:
            config["rope_parameters"] = {
                kind: {"rope_theta": theta, "rope_type": "default"} for kind, theta in turning.items()
            }
        else:
            config |= {"rope_local_base_freq": 10000.0, "rope_theta": 1000000.0}
    return config
