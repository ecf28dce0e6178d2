"""How large a GGUF file will be, before a byte is written: tensor data exactly, the header nearly.

Not here: the header itself (formats/), sizes of safetensors files, which are exact (facts/stored_tensors.py).
Source: ggml docs/gguf.md (an entry of the tensor table: name, dimensions, type, offset; alignment 32).
"""

from __future__ import annotations

from pathlib import Path

from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.facts.families import gguf_tensor
from bitwright.facts.tokenizer_size import gguf_vocabulary_bytes

GGUF_ALIGNMENT = 32
GGUF_KEYS = 4096  # hyperparameters, chat template, importance notes, the slot for the verdict


def gguf_file_bytes(facts: ModelFacts, tensors: tuple[TensorPlan, ...]) -> int:
    """One GGUF file with its vocabulary."""
    path = Path(facts.path)
    held = merged(tensors)
    if path.suffix == ".gguf" and path.is_file():  # its keys and tensor table are handed on
        return _aligned(path.stat().st_size - facts.bytes) + sum(_aligned(size) for _, size in held.values())
    table = sum(8 + len(name) + 4 + 8 * dimensions + 4 + 8 for name, (dimensions, _) in held.items())
    header = 24 + GGUF_KEYS + table + gguf_vocabulary_bytes(path, facts.vocab)
    return _aligned(header) + sum(_aligned(size) for _, size in held.values())


def merged(tensors: tuple[TensorPlan, ...]) -> dict[str, tuple[int, int]]:
    """Name in the file → dimensions and bytes; the experts of a block are one tensor with a dimension more."""
    held: dict[str, tuple[int, int]] = {}
    for tensor in tensors:
        name = gguf_tensor(tensor.stored_name)
        _, size = held.get(name, (0, 0))
        held[name] = (len(tensor.shape) + (name != tensor.stored_name), size + tensor.bytes)
    return held


def _aligned(count: int) -> int:
    return -(-count // GGUF_ALIGNMENT) * GGUF_ALIGNMENT
