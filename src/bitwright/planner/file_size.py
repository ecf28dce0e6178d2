"""How large a GGUF file will be, before a byte is written: tensor data exactly, the header nearly.

Not here: the header itself (formats/), sizes of safetensors files, which are exact (facts/stored_tensors.py).
Source: ggml docs/gguf.md (an entry of the tensor table: name, dimensions, type, offset; alignment 32).
"""

from __future__ import annotations

from pathlib import Path

from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.facts.tokenizer_size import gguf_vocabulary_bytes

GGUF_ALIGNMENT = 32
GGUF_KEYS = 4096  # hyperparameters, chat template, importance notes, the slot for the verdict


def gguf_file_bytes(facts: ModelFacts, tensors: tuple[TensorPlan, ...]) -> int:
    """One GGUF file with its vocabulary."""
    path = Path(facts.path)
    if path.suffix == ".gguf" and path.is_file():  # its keys and tensor table are handed on
        return _aligned(path.stat().st_size - facts.bytes) + sum(_aligned(tensor.bytes) for tensor in tensors)
    table = sum(8 + len(tensor.stored_name) + 4 + 8 * len(tensor.shape) + 4 + 8 for tensor in tensors)
    header = 24 + GGUF_KEYS + table + gguf_vocabulary_bytes(path, facts.vocab)
    return _aligned(header) + sum(_aligned(tensor.bytes) for tensor in tensors)


def _aligned(count: int) -> int:
    return -(-count // GGUF_ALIGNMENT) * GGUF_ALIGNMENT
