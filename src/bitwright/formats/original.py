"""The model to quantize, or to judge against, as a `WeightSource`: a checkpoint folder or a float GGUF file, with or
without a LoRA adapter merged in.

Quantized models are refused, because quantizing twice adds both errors. The exception is a bitsandbytes folder with an
adapter that was trained on it: its decoded values are the weights that the adapter fits.

Not here: what may be judged (sniff.py opens artifacts too).
"""

from __future__ import annotations

from pathlib import Path

from bitwright.core.errors import UnsupportedError
from bitwright.core.protocols import WeightSource
from bitwright.facts.checkpoint import is_gguf, read_config
from bitwright.formats.adapters.lora import LoraSource
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.ggml.reader import GgufSource
from bitwright.formats.sniff import gguf_file, open_source

FLOAT_TYPES = ("F32", "F16", "BF16")
TRAINED_ON = ("bitsandbytes",)  # quantized bases that adapters are trained on


def open_original(path: Path, adapter: Path | None = None) -> WeightSource:
    """Open a float model. Raises `InputError` for damage, `UnsupportedError` for a model that is quantized already."""
    source = _open_base(path, adapted=adapter is not None)
    return source if adapter is None else LoraSource(source, adapter)


def other_weights(path: Path, source: WeightSource) -> WeightSource | None:
    """`source`, where its weights are not those of a plain checkpoint folder that transformers reads by itself as a
    language model."""
    return source if source.facts.adapter or source.facts.vision or is_gguf(path) else None


def open_float_gguf(path: Path) -> GgufSource:
    """Open a GGUF file whose weights are floats. Raises as `open_original`."""
    source = GgufSource(gguf_file(path))
    rounded = sorted({tensor.dtype for tensor in source.facts.tensors} - set(FLOAT_TYPES))
    if rounded:
        raise UnsupportedError(
            f"`{path}` is already quantized ({', '.join(rounded)})",
            hint="start from an F32, F16 or BF16 file: quantizing twice adds both errors",
        )
    return source


def _open_base(path: Path, *, adapted: bool) -> WeightSource:
    if is_gguf(path):
        return open_float_gguf(path)
    if adapted:
        settings = read_config(path).get("quantization_config")
        if isinstance(settings, dict) and settings.get("quant_method") in TRAINED_ON:
            return open_source(path)
    return CheckpointSource(path)
