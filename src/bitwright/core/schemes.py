"""The vocabulary of number formats. Every room speaks it; contradictions cannot be constructed.

A weight scheme is one of
  FloatScheme   unquantized: f32, f16, bf16
  IntScheme     uniform integer grid, one scale (and zero point) per group of inputs or per output channel
  GgmlScheme    a block type of ggml by its upstream name: Q4_0 … Q6_K
"""

from __future__ import annotations

from typing import Literal

from bitwright.core.documents import Record
from bitwright.core.errors import UsageError, did_you_mean

FloatDtype = Literal["f32", "f16", "bf16"]
FLOAT_BYTES: dict[str, int] = {"f32": 4, "f16": 2, "bf16": 2}

GGML_BLOCKS: dict[str, tuple[int, int]] = {
    # name: (elements per block, bytes per block). Source: llama.cpp ggml/src/ggml-common.h
    "F32": (1, 4),
    "F16": (1, 2),
    "BF16": (1, 2),
    "Q4_0": (32, 18),
    "Q4_1": (32, 20),
    "Q5_0": (32, 22),
    "Q5_1": (32, 24),
    "Q8_0": (32, 34),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
}
GGML_FLOATS = ("F32", "F16", "BF16")
INT_BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)


class FloatScheme(Record, frozen=True, kw_only=True, tag_field="kind", tag="float"):
    """Unquantized."""

    dtype: FloatDtype

    @property
    def label(self) -> str:
        return self.dtype.upper()

    def bytes_for(self, rows: int, columns: int) -> int:
        """Bytes of a `rows x columns` tensor."""
        return rows * columns * FLOAT_BYTES[self.dtype]


class IntScheme(Record, frozen=True, kw_only=True, tag_field="kind", tag="int"):
    """Uniform integers. `group_size` counts inputs per scale; `None` is one scale per output channel.

    Symmetric codes lie in [-2^(bits-1), 2^(bits-1) - 1] around zero; asymmetric ones carry a zero point in that range.
    Scales are stored in `scale_dtype`, and codes are chosen against the stored scale.
    """

    bits: int
    group_size: int | None
    symmetric: bool = True
    scale_dtype: FloatDtype = "bf16"

    def __post_init__(self) -> None:
        if self.bits not in INT_BITS:
            raise UsageError(
                f"{self.bits} bits are not supported here", hint=f"use --bits {' or '.join(map(str, INT_BITS))}"
            )
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            raise UsageError(
                f"group size {self.group_size} is not one that the engines' kernels take",
                hint=f"use --group-size {', '.join(map(str, GROUP_SIZES))}, or `channel`",
            )

    @property
    def label(self) -> str:
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        return f"W{self.bits}A16 {group} {'sym' if self.symmetric else 'asym'}"

    def groups(self, columns: int) -> int:
        """Scales per row."""
        return 1 if self.group_size is None else columns // self.group_size

    def bytes_for(self, rows: int, columns: int) -> int:
        """Bytes of codes, scales and zero points in the compressed-tensors layout (`weight_shape` included)."""
        groups = self.groups(columns)
        total = rows * (-(-columns * self.bits // 32)) * 4 + rows * groups * FLOAT_BYTES[self.scale_dtype] + 16
        return total if self.symmetric else total + -(-rows * self.bits // 32) * 4 * groups


class GgmlScheme(Record, frozen=True, kw_only=True, tag_field="kind", tag="ggml"):
    """A ggml block type."""

    type: str

    def __post_init__(self) -> None:
        if self.type not in GGML_BLOCKS:
            raise UsageError(f"unknown ggml type `{self.type}`", hint=did_you_mean(self.type, list(GGML_BLOCKS)))

    @property
    def label(self) -> str:
        return self.type

    @property
    def is_float(self) -> bool:
        return self.type in GGML_FLOATS

    def bytes_for(self, rows: int, columns: int) -> int:
        """Bytes of the tensor; the row must hold whole blocks."""
        elements, size = GGML_BLOCKS[self.type]
        assert columns % elements == 0, f"{columns} columns do not fill blocks of {elements}"
        return rows * (columns // elements) * size


WeightScheme = FloatScheme | IntScheme | GgmlScheme
