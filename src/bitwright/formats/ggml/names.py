"""Names and row orders: what a Hugging Face tensor is called in a GGUF file, and how its rows lie there.

Names come from `gguf`'s own map, so they are upstream's by construction. Row order: the rotary embedding of the
architecture `llama` pairs neighbouring rows (2i, 2i + 1) in llama.cpp, while Hugging Face pairs row i of a head with
row i + half. So the rows of q and k are interleaved on the way in and put back on the way out. qwen2 and qwen3 keep
the Hugging Face pairing.

Not here: which tensors exist (facts/), bytes (blocks.py).
Sources: llama.cpp gguf-py/gguf/tensor_mapping.py; conversion/llama.py (LlamaModel.permute, modify_tensors).
"""

from __future__ import annotations

import re

import gguf
import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import UnsupportedError, did_you_mean
from bitwright.core.plan import ExpertFacts
from bitwright.facts.families import FAMILIES, expert_of

ARCHITECTURES = {family.name: family.gguf_architecture for family in FAMILIES.values()}  # model_type → GGUF
MODEL_TYPES = {stored: name for name, stored in reversed(ARCHITECTURES.items())}  # the first of those that share one
SUFFIXES = (".weight", ".bias")


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
        stored = mapping.get_name(_merged(name), try_suffixes=SUFFIXES)
        if stored is None:
            raise UnsupportedError(
                f"tensor `{name}` has no place in a GGUF file of architecture `{arch}`",
                hint="the checkpoint holds more than a plain language model of this type",
            )
        expert = expert_of(name)
        found[name] = stored if expert is None else f"{stored}[{expert}]"
    return found


def to_hugging_face(family: str, layers: int, experts: ExpertFacts | None = None) -> dict[str, str]:
    """GGUF name → Hugging Face name, for every tensor that the architecture may hold."""
    modules = ["model.embed_tokens", "model.norm", "lm_head"]
    for layer in range(layers):
        modules += [f"model.layers.{layer}.{module}" for module in FAMILIES[family].block_modules(layer, experts)]
    known: dict[str, str] = {}
    arch = architecture(family)
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    mapping = gguf.get_tensor_name_map(number, layers)
    for module in modules:
        stored = mapping.get_name(_merged(module))
        expert = expert_of(module)
        part = "" if expert is None else f"[{expert}]"
        if stored is not None:
            known.update({f"{stored}{suffix}{part}": module + suffix for suffix in SUFFIXES})
    return known


def _merged(name: str) -> str:
    """The name that upstream's converter gives to all experts of a block together."""
    if ".experts." not in name:
        return name
    if ".block_sparse_moe." in name:
        return re.sub(r"model\.(.+)\.block_sparse_moe\.experts\.\d+", r"\1.feed_forward.experts", name)
    return re.sub(r"\.experts\.\d+", ".experts", name)


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
