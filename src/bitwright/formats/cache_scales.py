"""Stored scales of an 8-bit key-value cache, which are no weights and which readers of weights pass over.

Not here: observing keys and values (modeling/cache_peaks.py), names (facts/cache_scales.py).
"""

from __future__ import annotations

from pathlib import Path

from bitwright.facts.cache_scales import is_cache_scale
from bitwright.facts.checkpoint import CONFIG, read_checkpoint
from bitwright.formats.folders.ranges import locate
from bitwright.formats.folders.safetensors_file import read_tensor


def read_cache_scales(path: Path) -> dict[str, float]:
    """Name → scale; empty for a file, and for a folder that stores none. Raises `InputError` on damage."""
    if not (path / CONFIG).exists():
        return {}
    tensors = read_checkpoint(path).tensors
    named = {tensor.name: tensor.file for tensor in tensors if is_cache_scale(tensor.name)}
    if not named:
        return {}
    places = locate(path, tensors)
    return {name: float(read_tensor(path / file, places[name]).float().reshape(-1)[0]) for name, file in named.items()}
