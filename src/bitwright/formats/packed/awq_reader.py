"""An AWQ folder in GEMM layout as a `WeightSource`, its words unpacked by the library `compressed-tensors`.

The library has a converter from AutoAWQ; its two steps that undo packing and interleaving are used here, and one
product per weight remains: `scales * (q - z)` in float32.

Not here: writing (awq_writer.py). Sources: AutoAWQ 0.2, awq/modules/linear/gemm.py; compressed-tensors 0.17 to 0.20,
entrypoints/convert/converters/autoawq.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter

from bitwright.core.schemes import GROUP_SIZES, IntScheme
from bitwright.formats.packed.awq_packing import BITS, PER_WORD, unpack
from bitwright.formats.packed.folder import PackedFolderSource
from bitwright.tensors.qtensor import QTensor

HALF = 1 << (BITS - 1)
MASK = (1 << BITS) - 1


class AwqSource(PackedFolderSource):
    """Weights of the artifact under Hugging Face names."""

    marker = ".qweight"

    def read_settings(self, settings: dict[str, Any]) -> None:
        bits, version = settings.get("bits", settings.get("w_bit", BITS)), settings.get("version", "gemm")
        if bits != BITS or str(version).lower() != "gemm":
            raise self.unsupported(f"{bits} bits in layout `{version}`, expected 4 in `gemm`", hint="quantize again")

    def parts(self, module: str) -> list[str]:
        return [f"{module}.{part}" for part in ("qweight", "qzeros", "scales")]

    def shape(self, module: str) -> tuple[int, int]:
        codes, zeros, scales = (self.stored(name) for name in self.parts(module))
        if len(codes.shape) != 2 or len(scales.shape) != 2 or not all(scales.shape):
            raise self.refuse(f"the parts of `{module}` are no matrices")
        columns, rows, groups = codes.shape[0], codes.shape[1] * PER_WORD, scales.shape[0]
        self.expect(codes.name, ("I32",), (columns, rows // PER_WORD))
        self.expect(zeros.name, ("I32",), (groups, rows // PER_WORD))
        self.expect(scales.name, ("F16", "BF16", "F32"), (groups, rows))
        if columns % groups:
            raise self.refuse(f"{groups} groups do not divide the {columns} inputs of `{module}`")
        return rows, columns

    def presented_dtype(self, module: str) -> str:
        return self.stored(f"{module}.scales").dtype

    def decode(self, module: str) -> torch.Tensor:
        codes, zeros, scales = (self.read(name) for name in self.parts(module))
        loose = AutoAWQConverter.unpack_awq(codes, zeros, BITS)
        values, points = (part & MASK for part in AutoAWQConverter.reverse_awq_order(*loose, BITS))
        size = len(values) // len(scales)
        points, steps = (part.repeat_interleave(size, dim=0) for part in (points, scales.float()))
        decoded: torch.Tensor = steps * (values.int() - points.int()).float()
        return decoded.T.contiguous()

    def scheme(self, module: str) -> IntScheme | None:
        """The scheme, where ours has a word for it."""
        _, columns = self.shape(module)
        groups = self.stored(f"{module}.scales").shape[0]
        size = columns // groups
        if groups > 1 and size not in GROUP_SIZES:
            return None
        zeros = unpack(self.read(f"{module}.qzeros").numpy())
        return IntScheme(
            bits=BITS, group_size=size if size in GROUP_SIZES else None, symmetric=bool((zeros == HALF).all()),
            scale_dtype="f16",
        )  # fmt: skip

    def codes(self, module: str, scheme: IntScheme) -> QTensor:
        """The integers as they are stored, for `convert`. Unpacked by our own code."""
        words, zeros, scales = (self.read(name) for name in self.parts(module))
        codes = np.ascontiguousarray((unpack(words.numpy()).astype(np.int16) - HALF).T).astype(np.int8)
        fields: dict[str, Any] = {"scale": np.ascontiguousarray(scales.float().numpy().T)}
        if not scheme.symmetric:
            points = (unpack(zeros.numpy()).astype(np.int16) - HALF).T
            fields["zero_point"] = np.ascontiguousarray(points).astype(np.int8)
        return QTensor(scheme=scheme, codes=codes, fields=fields)
