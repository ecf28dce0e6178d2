"""`ModelFacts` out of dimensions alone, for rules that never look at files."""

from __future__ import annotations

import math

import msgspec

from bitwright.core.plan import ExpertFacts, ModelFacts, TensorFacts
from bitwright.facts.families import FAMILIES
from bitwright.facts.model import expected_shapes


def shaped_facts(
    family: str = "llama", *, layers: int = 2, hidden: int = 256, intermediate: int = 512, heads: int = 4,
    kv_heads: int = 2, head_dim: int = 64, vocab: int = 320, tied: bool = False,
    experts: int = 8,
) -> ModelFacts:  # fmt: skip
    """A model of these dimensions, in bf16, that lies nowhere."""
    shared = 192 if family == "qwen2_moe" else 0
    mixture = ExpertFacts(count=experts, per_token=2, intermediate=intermediate, shared_intermediate=shared)
    empty = ModelFacts(
        path="nowhere", architecture=FAMILIES[family].architecture, family=family, layers=layers, hidden=hidden,
        intermediate=intermediate, heads=heads, kv_heads=kv_heads, head_dim=head_dim, vocab=vocab, context=8192,
        tied=tied, parameters=0, bytes=0, dtype="BF16", tensors=(), fingerprint="0" * 64,
        experts=mixture if FAMILIES[family].experts else None,
    )  # fmt: skip
    tensors = tuple(
        TensorFacts(name=name, shape=shape, dtype="BF16", file="model.safetensors", bytes=2 * math.prod(shape))
        for name, shape in expected_shapes(empty).items()
    )
    parameters = sum(math.prod(tensor.shape) for tensor in tensors)
    return msgspec.structs.replace(empty, tensors=tensors, parameters=parameters, bytes=2 * parameters)
