"""QTensor: the coin between algorithms and formats. Codes and scales, logical and unpacked.

An algorithm chooses every integer and every stored scale; a format only lays them into bytes. Nothing is rounded after
this point. `decode` gives the values that every conforming reader of the format must see, in float32, with the same
order of operations as the foreign reader, so that equality can be tested bit for bit.

Fields by scheme (O rows, I inputs, G groups per row, N = I/256 super-blocks, B = I/32 blocks):
  int symmetric     scale [O,G] float32, representable in the scheme's scale_dtype; codes int8, w = scale * q
  int asymmetric    the same, and zero_point [O,G] int8;                              w = scale * (q - zero_point)
  int ordered       the same, and group_index [I] int32: groups are no runs of inputs
  Q4_0, Q5_0        d [O,B] float16; codes uint8;                                     w = d * (q - 8 or 16)
  Q4_1, Q5_1        d, m [O,B] float16; codes uint8;                                  w = d * q + m
  Q8_0              d [O,B] float16; codes int8;                                      w = d * q
  Q4_K, Q5_K        d, dmin [O,N] float16; scales, mins [O,I/32] uint8 (6 bit); codes uint8
                                                                                      w = (d * scales) * q - dmin * mins
  Q6_K              d [O,N] float16; scales [O,I/16] int8; codes uint8;               w = (d * scales) * (q - 32)
  Q2_K              d, dmin [O,N] float16; scales, mins [O,I/16] uint8 (4 bit); codes uint8: as Q4_K
  Q3_K              d [O,N] float16; scales [O,I/16] int8 (6 bit); codes uint8;       w = (d * scales) * (q - 4)
  IQ4_NL            d [O,B] float16; codes uint8;                                     w = d * IQ4_LEVELS[q]
  IQ4_XS            d [O,N] float16; scales [O,B] int8 (6 bit); codes uint8;          w = (d * scales) * IQ4_LEVELS[q]
  MXFP4             e [O,B] uint8 (E8M0); codes uint8 (sign, E2M1);                   w = 2^(e-128) * E2M1_DOUBLED[q]
  minifloat         codes uint8; fields in minifloat_values.py
  codebook, LLM.int8                   fields in codebook_values.py
Rounded activations with a stored scale add input_scale [1] float32 (for NVFP4 the factor that inputs are multiplied
with before their local scales are taken). Fields of one dimension belong to the whole matrix, others have one row per
row of the matrix.

Not here: choosing codes (quantize/), bytes (formats/). Sources: llama.cpp ggml-quants.c (dequantize_row_*),
compressed-tensors quantization/lifecycle/forward.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bitwright.core.schemes import CodebookScheme, GgmlScheme, Int8RowScheme, IntScheme, MinifloatScheme, QuantScheme
from bitwright.tensors.arrays import Array, Float32
from bitwright.tensors.codebook_values import codebook_values, int8_row_values
from bitwright.tensors.ggml_values import ggml_values
from bitwright.tensors.integer_values import integer_values
from bitwright.tensors.minifloat_values import minifloat_values

__all__ = ["Array", "Float32", "QTensor"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class QTensor:
    """One quantized matrix of `shape` (outputs, inputs)."""

    scheme: QuantScheme
    codes: Array
    fields: Mapping[str, Array]

    @property
    def shape(self) -> tuple[int, int]:
        rows, columns = self.codes.shape
        return rows, columns

    def take_rows(self, order: NDArray[np.int64]) -> QTensor:
        """The same matrix with its rows in another order. Rows are solved apart, so this is exact.

        Fields of one dimension belong to the whole matrix and stay as they are.
        """
        assert not isinstance(self.scheme, CodebookScheme), "blocks run across rows"
        assert not (isinstance(self.scheme, MinifloatScheme) and self.scheme.scaling == "block"), "rows share scales"
        return QTensor(
            scheme=self.scheme,
            codes=self.codes[order],
            fields={name: field if field.ndim == 1 else field[order] for name, field in self.fields.items()},
        )

    def decode(self) -> Float32:
        """The float32 values [O, I] that readers of the format see."""
        match self.scheme:
            case IntScheme():
                return integer_values(self.codes, self.fields)
            case MinifloatScheme():
                return minifloat_values(self.scheme, self.codes, self.fields)
            case CodebookScheme():
                return codebook_values(self.scheme, self.codes, self.fields)
            case Int8RowScheme():
                return int8_row_values(self.codes, self.fields)
            case GgmlScheme():
                return ggml_values(self.scheme.type, self.codes, self.fields)
            case _:
                raise AssertionError(self.scheme)
