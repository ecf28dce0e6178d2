"""Writer of compressed-tensors folders: what vLLM, SGLang and transformers load as W4A16, W8A8, FP8, NVFP4 and others.

Names, types and shapes of what is stored, and how it is split into shards, stand in facts/stored_tensors.py; tensors
that stay in floating point keep their names. Tensors of one decoder block lie in one or two files.

Not here: bytes of one matrix (encode.py), `quantization_config` (folders/quantization_config.py), and what all folders
share (folders/writer.py).
"""

from __future__ import annotations

from typing import Any

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import IntScheme, MinifloatScheme
from bitwright.formats.compressed.encode import encode_quantized
from bitwright.formats.folders.quantization_config import quantization_config
from bitwright.formats.folders.writer import SafetensorsFolderWriter, module_of
from bitwright.tensors.qtensor import QTensor


class CompressedTensorsWriter(SafetensorsFolderWriter):
    """`ArtifactWriter` for compressed-tensors."""

    def check(self, entry: TensorPlan) -> None:
        """Raise `UnsupportedError` when the format has no place for this matrix under its scheme."""
        _check(entry)

    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        """Stored name → bytes of a quantized matrix."""
        return encode_quantized(module_of(entry.stored_name), value, entry.shape)

    def quantization_config(self) -> dict[str, Any]:
        """Groups of modules with their schemes."""
        return quantization_config(self._plan)

    def rows_apart(self, entry: TensorPlan) -> bool:
        """Always: packed words, scales and zero points lie in the order of rows."""
        return True


def _check(entry: TensorPlan) -> None:
    scheme = entry.scheme
    if not isinstance(scheme, IntScheme | MinifloatScheme):
        raise UnsupportedError(
            f"`{entry.name}`: compressed-tensors cannot hold {scheme.label}", hint="use --format gguf for ggml types"
        )
    if isinstance(scheme, IntScheme) and scheme.ordered:
        raise UnsupportedError(
            f"`{entry.name}`: compressed-tensors stores no order of columns any more (`actorder` has lost `group`)",
            hint="use --format gptq, or --act-order static, whose files have plain groups",
        )
    if isinstance(scheme, MinifloatScheme) and scheme.element == "e5m2":
        raise UnsupportedError(
            f"`{entry.name}`: compressed-tensors has no name for E5M2 weights, its 8-bit floats are E4M3",
            hint="use FP8, FP8_DYNAMIC or FP8_BLOCK",
        )
    if scheme.input_group is not None and entry.shape[1] % scheme.input_group:
        raise UnsupportedError(
            f"`{entry.name}` has {entry.shape[1]} inputs, which groups of {scheme.input_group} do not divide",
            hint="choose a smaller --group-size, or `channel`",
        )
