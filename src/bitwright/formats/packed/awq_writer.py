"""Writer of AWQ folders in AutoAWQ's GEMM layout: what vLLM, SGLang, TGI and LMDeploy load as `awq`.

Per quantized matrix `<module>.weight` of shape [out, in], 4 bits, G groups of 32, 64 or 128 inputs:
    <module>.qweight   I32  [in, out/8]   codes + 8, packed along the outputs in AWQ's order
    <module>.qzeros    I32  [G, out/8]    zero points + 8, the same way, without GPTQ's minus one
    <module>.scales    F16  [G, out]      w = scale * (code - zero_point)
The format is one thing and the method of the same name another: any 4-bit solution with zero points fits.

Not here: packing (awq_packing.py), reading (awq_reader.py).
Sources: AutoAWQ 0.2, awq/modules/linear/gemm.py; vLLM 0.32, layers/quantization/auto_awq.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import IntScheme
from bitwright.formats.folders.writer import SafetensorsFolderWriter, module_of
from bitwright.formats.layout import float_bytes, is_exact
from bitwright.formats.packed.awq_packing import BITS, PER_WORD, pack
from bitwright.tensors.qtensor import QTensor

HALF = 1 << (BITS - 1)


class AwqWriter(SafetensorsFolderWriter):
    """`ArtifactWriter` for AWQ. One group size for the whole model, because the format has a single setting."""

    def check(self, entry: TensorPlan) -> None:
        scheme = entry.scheme
        if not isinstance(scheme, IntScheme) or scheme.bits != BITS or scheme.activations or scheme.symmetric:
            raise UnsupportedError(
                f"`{entry.name}`: AWQ files cannot hold {scheme.label}", hint="use --bits 4 --asymmetric"
            )
        if scheme.group_size is None or scheme.scale_dtype != "f16" or scheme.group_size != self._group_size():
            raise UnsupportedError(
                f"`{entry.name}`: AWQ files have one group size and F16 scales, planned {scheme.label}",
                hint="use --group-size 32, 64 or 128",
            )
        rows, columns = entry.shape
        if rows % PER_WORD or columns % scheme.group_size:
            raise UnsupportedError(
                f"`{entry.name}` is {rows} x {columns}, AWQ needs outputs by 8 and inputs by {scheme.group_size}",
                hint="choose a smaller --group-size, or --format compressed-tensors",
            )

    def encode_codes(self, entry: TensorPlan, value: QTensor) -> dict[str, bytes]:
        module = module_of(entry.name)
        scale_OG = value.fields["scale"].astype(np.float32)
        assert is_exact(scale_OG, "f16"), f"{module}: a scale is not representable in f16"
        return {
            f"{module}.qweight": pack((value.codes.astype(np.int16) + HALF).T).tobytes(),
            f"{module}.qzeros": pack((value.fields["zero_point"].astype(np.int16) + HALF).T).tobytes(),
            f"{module}.scales": float_bytes(np.ascontiguousarray(scale_OG.T), "f16"),
        }

    def quantization_config(self) -> dict[str, Any]:
        """AutoAWQ's keys. Modules left in floating point are named; loaders match them as parts of names."""
        return {
            "quant_method": "awq",
            "bits": BITS,
            "group_size": self._group_size(),
            "zero_point": True,
            "version": "gemm",
            "modules_to_not_convert": sorted({*self.float_linears(), "lm_head"}),
        }

    def _group_size(self) -> int | None:
        sizes = (entry.scheme.group_size for entry in self._plan.tensors if isinstance(entry.scheme, IntScheme))
        return next(sizes, None)
