"""How large the weight files will be, before a byte is written: tensor data exactly, headers nearly.

Not here: the headers themselves (formats/).
Sources: ggml docs/gguf.md (an entry of the tensor table: name, dimensions, type, offset; alignment 32); safetensors
README.
"""

from __future__ import annotations

from pathlib import Path

from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.core.schemes import IntScheme
from bitwright.facts.tokenizer_size import gguf_vocabulary_bytes

GGUF_ALIGNMENT = 32
GGUF_KEYS = 4096  # hyperparameters, chat template, importance notes, the slot for the verdict
SAFETENSORS_ENTRY = 80  # {"dtype":…,"shape":[…],"data_offsets":[…]} and punctuation, without the name


def gguf_file_bytes(facts: ModelFacts, tensors: tuple[TensorPlan, ...]) -> int:
    """One GGUF file with its vocabulary."""
    path = Path(facts.path)
    if path.suffix == ".gguf" and path.is_file():  # its keys and tensor table are handed on
        return _aligned(path.stat().st_size - facts.bytes) + sum(_aligned(tensor.bytes) for tensor in tensors)
    table = sum(8 + len(tensor.stored_name) + 4 + 8 * len(tensor.shape) + 4 + 8 for tensor in tensors)
    header = 24 + GGUF_KEYS + table + gguf_vocabulary_bytes(path, facts.vocab)
    return _aligned(header) + sum(_aligned(tensor.bytes) for tensor in tensors)


def safetensors_file_bytes(tensors: tuple[TensorPlan, ...]) -> int:
    """All safetensors files of a compressed-tensors folder."""
    total = 8
    for tensor in tensors:
        parts = _stored_parts(tensor)
        total += tensor.bytes + parts * (SAFETENSORS_ENTRY + len(tensor.name)) + 7 * (parts > 1) * parts
    return total


def _stored_parts(tensor: TensorPlan) -> int:
    """A packed matrix is stored as codes, scales and shape, and zero points where it is asymmetric."""
    if not isinstance(tensor.scheme, IntScheme):
        return 1
    return 3 if tensor.scheme.symmetric else 4


def _aligned(count: int) -> int:
    return -(-count // GGUF_ALIGNMENT) * GGUF_ALIGNMENT
