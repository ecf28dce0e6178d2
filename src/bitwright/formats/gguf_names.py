"""Names and row orders: what a Hugging Face tensor is called in a GGUF file, and how its rows lie there.

Names come from `gguf`'s own map, so they are upstream's by construction. Row order: the rotary embedding of the
architecture `llama` pairs neighbouring rows (2i, 2i + 1) in llama.cpp, while Hugging Face pairs row i of a head with
row i + half. So the rows of q and k are interleaved on the way in and put back on the way out. qwen2 and qwen3 keep
the Hugging Face pairing.

Not here: which tensors exist (facts/), bytes (gguf_blocks.py).
Sources: llama.cpp gguf-py/gguf/tensor_mapping.py; conversion/llama.py (LlamaModel.permute, modify_tensors).
"""

from __future__ import annotations

import gguf
import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import UnsupportedError, did_you_mean

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}  # model_type → GGUF
CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
SUFFIXES = (".weight", ".bias")
BLOCK_MODULES = (
    "input_layernorm",
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "self_attn.q_norm",
    "self_attn.k_norm",
    "post_attention_layernorm",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)


def architecture(family: str) -> str:
    """GGUF architecture of a `model_type`. Raises `UnsupportedError` for one that has no rules here."""
    if family not in ARCHITECTURES:
        raise UnsupportedError(
            f"model type `{family}` cannot be written as GGUF", hint=did_you_mean(family, list(ARCHITECTURES))
        )
    return ARCHITECTURES[family]


def to_gguf(family: str, layers: int, names: list[str]) -> dict[str, str]:
    """Hugging Face name → GGUF name, for every tensor in `names`. Raises `UnsupportedError` for an unknown tensor."""
    arch = architecture(family)
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    mapping = gguf.get_tensor_name_map(number, layers)
    found: dict[str, str] = {}
    for name in names:
        stored = mapping.get_name(name, try_suffixes=SUFFIXES)
        if stored is None:
            raise UnsupportedError(
                f"tensor `{name}` has no place in a GGUF file of architecture `{arch}`",
                hint="the checkpoint holds more than a plain language model of this type",
            )
        found[name] = stored
    return found


def to_hugging_face(family: str, layers: int) -> dict[str, str]:
    """GGUF name → Hugging Face name, for every tensor that the architecture may hold."""
    modules = ["model.embed_tokens", "model.norm", "lm_head"]
    modules += [f"model.layers.{layer}.{module}" for layer in range(layers) for module in BLOCK_MODULES]
    known: dict[str, str] = {}
    arch = architecture(family)
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    mapping = gguf.get_tensor_name_map(number, layers)
    for module in modules:
        stored = mapping.get_name(module)
        if stored is not None:
            known.update({stored + suffix: module + suffix for suffix in SUFFIXES})
    return known


def rotary_heads(family: str, name: str, heads: int, kv_heads: int) -> int | None:
    """How many heads the interleaved tensor `name` has, or `None` when its rows keep their order."""
    if architecture(family) != "llama":
        return None
    module = name.rpartition(".")[0]
    if module.endswith("self_attn.q_proj"):
        return heads
    if module.endswith("self_attn.k_proj"):
        return kv_heads
    return None


def permutation(rows: int, heads: int) -> NDArray[np.int64]:
    """`stored[i] = original[order[i]]`: the halves of each head interleaved."""
    assert rows % (2 * heads) == 0, f"{rows} rows are not {heads} heads of even size"
    return np.ascontiguousarray(np.arange(rows, dtype=np.int64).reshape(heads, 2, -1).swapaxes(1, 2)).reshape(-1)


def inverse_permutation(rows: int, heads: int) -> NDArray[np.int64]:
    """`original[i] = stored[order[i]]`."""
    assert rows % (2 * heads) == 0, f"{rows} rows are not {heads} heads of even size"
    return np.ascontiguousarray(np.arange(rows, dtype=np.int64).reshape(heads, -1, 2).swapaxes(1, 2)).reshape(-1)
