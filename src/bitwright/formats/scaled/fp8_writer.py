"""Writer of HF/vLLM fp8 folders: the layout in which DeepSeek and Qwen publish their 8-bit models.

One setting holds for the whole model: `weight_block_size` for blocks with dynamic inputs, or one scale per matrix with
inputs under a stored scale (`static`) or under one per token (`dynamic`). Modules that stay floats are named twice,
because vLLM looks under `ignored_layers` first and transformers knows `modules_to_not_convert`.

Not here: bytes of a matrix (encode.py), reading (fp8_reader.py).
Sources: vLLM 0.32, layers/quantization/fp8.py; transformers 5.23, FineGrainedFP8Config.
"""

from __future__ import annotations

from typing import Any

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import FP8_BLOCK, MinifloatScheme
from bitwright.facts.float_folders import TYPES, type_name
from bitwright.formats.folders.writer import SafetensorsFolderWriter
from bitwright.formats.scaled.encode import encode_matrix
from bitwright.tensors.qtensor import QTensor


class Fp8Writer(SafetensorsFolderWriter):
    """`ArtifactWriter` for fp8."""

    def check(self, entry: TensorPlan) -> None:
        scheme = entry.scheme
        if not isinstance(scheme, MinifloatScheme) or type_name("fp8", scheme) is None:
            raise UnsupportedError(
                f"`{entry.name}`: fp8 folders cannot hold {scheme.label}", hint=f"use --type {', '.join(TYPES['fp8'])}"
            )
        others = {e.scheme for e in self._plan.tensors if isinstance(e.scheme, MinifloatScheme)} - {scheme}
        if others:
            raise UnsupportedError(
                f"`{entry.name}`: fp8 folders have one setting for all, not {scheme.label} and {others.pop().label}",
                hint="use --format compressed-tensors",
            )

    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        return encode_matrix(entry, value, "fp8")

    def quantization_config(self) -> dict[str, Any]:
        scheme = next(e.scheme for e in self._plan.tensors if isinstance(e.scheme, MinifloatScheme))
        kept = sorted({*self.float_linears(), "lm_head"})
        static = scheme.activations is not None and not scheme.activations.dynamic
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "static" if static else "dynamic",
            "weight_block_size": [FP8_BLOCK, FP8_BLOCK] if scheme.scaling == "block" else None,
            "modules_to_not_convert": kept,
            "ignored_layers": kept,
        }
