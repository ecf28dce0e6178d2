"""The vocabulary of number formats. Every room speaks it; contradictions cannot be constructed.

A weight scheme is one of
  FloatScheme      unquantized: f32, f16, bf16
  IntScheme        uniform integer grid, one scale (and zero point) per group of inputs or per output channel
  MinifloatScheme  8-bit or 4-bit floats under scales: FP8, NVFP4, MXFP4, MXFP8
  CodebookScheme   16 fixed levels under one scale per block: NF4 and FP4 of bitsandbytes
  Int8RowScheme    LLM.int8() of bitsandbytes: bytes under the largest magnitude of their row
  GgmlScheme       a block type of ggml by its upstream name: Q2_K … Q8_0, IQ4_XS, MXFP4
An `ActivationScheme` inside a weight scheme says that the engine rounds the inputs of the linear too.
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
    "Q2_K": (256, 84),
    "Q3_K": (256, 110),
    "Q4_K": (256, 144),
    "Q5_K": (256, 176),
    "Q6_K": (256, 210),
    "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136),
    "MXFP4": (32, 17),
}
GGML_FLOATS = ("F32", "F16", "BF16")
INT_BITS = (2, 3, 4, 5, 6, 7, 8)
NV_GROUP, MX_GROUP, FP8_BLOCK = 16, 32, 128  # inputs per scale; FP8_BLOCK counts outputs too

BNB_STATE_BYTES = 256  # room for the JSON that bitsandbytes keeps beside a matrix (formats/packed/bnb_writer.py)

MinifloatElement = Literal["e4m3", "e5m2", "e2m1"]
MinifloatScaling = Literal["tensor", "channel", "block", "nv", "mx"]
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


class ActivationScheme(Record, frozen=True, kw_only=True):
    """How an engine rounds the inputs of a linear. Dynamic: scales are taken while it runs. Static: they are stored.

    tensor   one stored scale          token   one per token          group   one per 128 inputs of a token
    nv       an E4M3 scale per 16 inputs, taken while it runs, under one stored factor (hence static)
    mx       a power of two per 32 inputs
    """

    element: Literal["int8", "e4m3", "e2m1"]
    scaling: Literal["tensor", "token", "group", "nv", "mx"]
    dynamic: bool = True

    def __post_init__(self) -> None:
        if not self.dynamic and self.scaling not in ("tensor", "nv"):
            raise UsageError(
                f"static scales per {self.scaling} cannot be stored",
                hint="static activations have one scale per tensor",
            )
        if self.dynamic and self.scaling in ("tensor", "nv"):
            raise UsageError(
                f"engines take the scale per {self.scaling} from the file", hint="make it static, or per token"
            )
        if (self.element == "e2m1") != (self.scaling == "nv") and not (self.element, self.scaling) == ("e2m1", "mx"):
            raise UsageError(f"no engine rounds inputs to {self.element} per {self.scaling}")
        if self.element == "int8" and self.scaling in ("group", "mx"):
            raise UsageError(f"no engine rounds inputs to int8 per {self.scaling}")

    @property
    def label(self) -> str:
        bits = "A4" if self.element == "e2m1" else "A8"
        return f"{bits} {'dynamic' if self.dynamic else 'static'}"


class InputRounding(Record, frozen=True, kw_only=True):
    """What an artifact says of the inputs of one linear. `scale` is the stored one of static activations."""

    scheme: ActivationScheme
    scale: float | None = None


def _activation_label(activations: ActivationScheme | None) -> str:
    return "A16" if activations is None else activations.label


class IntScheme(Record, frozen=True, kw_only=True, tag_field="kind", tag="int"):
    """Uniform integers. `group_size` counts inputs per scale; `None` is one scale per output channel.

    Symmetric codes lie in [-2^(bits-1), 2^(bits-1) - 1] around zero; asymmetric ones carry a zero point in that range.
    Scales are stored in `scale_dtype`, and codes are chosen against the stored scale.
    """

    bits: int
    group_size: int | None
    symmetric: bool = True
    scale_dtype: FloatDtype = "bf16"
    activations: ActivationScheme | None = None
    ordered: bool = False  # groups are formed of columns in another order, which is stored (`g_idx`)

    def __post_init__(self) -> None:
        if self.ordered and (self.group_size is None or self.activations is not None):
            raise UsageError(
                f"columns have no order to be stored with {self.label}", hint="use groups and 16-bit activations"
            )
        if self.bits not in INT_BITS:
            raise UsageError(
                f"{self.bits} bits are not supported here", hint=f"use --bits {INT_BITS[0]} to {INT_BITS[-1]}"
            )
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            raise UsageError(
                f"group size {self.group_size} is not one that the engines' kernels take",
                hint=f"use --group-size {', '.join(map(str, GROUP_SIZES))}, or `channel`",
            )
        if self.activations is not None and not self._rounded_inputs_are_served(self.activations):
            raise UsageError(
                f"no engine reads {self.bits}-bit {'' if self.symmetric else 'a'}symmetric weights with "
                f"{'one scale per channel' if self.group_size is None else f'groups of {self.group_size}'} together "
                f"with {self.activations.element} activations per {self.activations.scaling}",
                hint="int8 activations go with 8-bit symmetric channels, e4m3 per token with 4-bit symmetric g128",
            )

    def _rounded_inputs_are_served(self, inputs: ActivationScheme) -> bool:
        """W8A8Int8 and W4A8Fp8, the combinations of vLLM 0.32 that need no optional kernel."""
        if inputs.element == "int8":
            per = "token" if inputs.dynamic else "tensor"
            return self.bits == 8 and self.group_size is None and self.symmetric and inputs.scaling == per
        token = inputs.element == "e4m3" and inputs.scaling == "token"
        return token and self.bits == 4 and self.group_size in (None, 128) and self.symmetric

    @property
    def input_group(self) -> int | None:
        """Inputs of a row that share a scale, of which a row must hold a whole number; `None`: the row's all."""
        return self.group_size

    @property
    def packed(self) -> bool:
        """Whether codes lie in 32-bit words; those of int8 activations' partners are plain bytes."""
        return self.activations is None or self.activations.element != "int8"

    @property
    def label(self) -> str:
        group = "channel" if self.group_size is None else f"g{self.group_size}"
        inputs = "A16" if self.activations is None else self.activations.label.partition(" ")[0]
        inputs = inputs if self.packed is False or inputs == "A16" else "AFP8"
        how = "" if self.activations is None else f" {'dynamic' if self.activations.dynamic else 'static'}"
        how += " act-order" if self.ordered else ""
        return f"W{self.bits}{inputs} {group} {'sym' if self.symmetric else 'asym'}{how}"

    def groups(self, columns: int) -> int:
        """Scales per row."""
        return 1 if self.group_size is None else columns // self.group_size

    def bytes_for(self, rows: int, columns: int) -> int:
        """Bytes of codes, scales and zero points in the compressed-tensors layout (`weight_shape` included)."""
        groups = self.groups(columns)
        if not self.packed:
            static = self.activations is not None and not self.activations.dynamic
            return rows * columns + (rows * groups + static) * FLOAT_BYTES[self.scale_dtype]
        total = rows * (-(-columns * self.bits // 32)) * 4 + rows * groups * FLOAT_BYTES[self.scale_dtype] + 16
        return total if self.symmetric else total + -(-rows * self.bits // 32) * 4 * groups


class MinifloatScheme(Record, frozen=True, kw_only=True, tag_field="kind", tag="minifloat"):
    """Floats of few bits. `scaling` says what shares a scale, and in which type the scale is stored.

    tensor, channel, block   one scale per matrix, per output channel, per 128 x 128 block; FP8 (OCP 8-bit floats) only
    nv                       E2M1 elements, an E4M3 scale per 16 inputs, and a float32 factor per matrix (NVFP4)
    mx                       a power of two (E8M0) per 32 inputs (OCP Microscaling v1.0)
    `factor` says how the factors of `nv`, of weights and inputs, are stored: compressed-tensors divides by them,
    ModelOpt and GGUF multiply.
    """

    element: MinifloatElement
    scaling: MinifloatScaling
    factor: Literal["divisor", "multiplier"] = "divisor"
    scale_dtype: FloatDtype = "bf16"  # of `tensor`, `channel` and `block` scales
    activations: ActivationScheme | None = None

    def __post_init__(self) -> None:
        fits = self.element == "e2m1" if self.scaling == "nv" else self.element != "e2m1" or self.scaling == "mx"
        if not fits or (self.scaling == "mx" and self.element == "e5m2"):
            raise UsageError(
                f"{self.element} elements under `{self.scaling}` scales are no format that an engine reads",
                hint="e4m3 and e5m2 go with tensor, channel or block; e2m1 with nv or mx; e4m3 with mx",
            )
        if self.factor == "multiplier" and self.scaling != "nv":
            raise UsageError(f"{self.element} weights per {self.scaling} have no factor that could be a multiplier")
        inputs = self.activations
        partners = {"nv": ("nv",), "mx": ("mx", "group"), "tensor": ("tensor", "token"), "channel": ("token", "tensor")}
        if inputs is not None and (
            inputs.element == "int8"
            or inputs.scaling not in partners.get(self.scaling, ("group",))
            or (inputs.scaling == "mx" and inputs.element != self.element)
        ):
            raise UsageError(
                f"no engine reads {self.element} weights per {self.scaling} together with {inputs.element} activations "
                f"per {inputs.scaling}"
            )

    @property
    def input_group(self) -> int | None:
        """Inputs of a row that share a scale, of which a row must hold whole ones; blocks may be cut at the edge."""
        return {"nv": NV_GROUP, "mx": MX_GROUP}.get(self.scaling)

    @property
    def label(self) -> str:
        name = {"nv": "NVFP4", "mx": "MXFP4" if self.element == "e2m1" else "MXFP8"}.get(self.scaling)
        name = name or f"{'FP8' if self.element == 'e4m3' else 'FP8-E5M2'} {self.scaling}"
        return f"{name} {_activation_label(self.activations)}"

    def bytes_for(self, rows: int, columns: int) -> int:
        """Bytes of codes and scales of a `rows x columns` tensor in the compressed-tensors layout."""
        match self.scaling:
            case "nv":
                return rows * columns // 2 + rows * columns // NV_GROUP + 4 + (4 if self.activations else 0)
            case "mx":
                bits = 4 if self.element == "e2m1" else 8
                return rows * columns * bits // 8 + rows * columns // MX_GROUP
            case "tensor":
                scales = 1
            case "channel":
                scales = rows
            case _:
                scales = -(-rows // FP8_BLOCK) * -(-columns // FP8_BLOCK)
        static = self.activations is not None and not self.activations.dynamic
        return rows * columns + (scales + static) * FLOAT_BYTES[self.scale_dtype]


class CodebookScheme(Record, frozen=True, kw_only=True, tag_field="kind", tag="codebook"):
    """Sixteen fixed levels, scaled by the largest magnitude of each run of `block` elements (row-major, flat).

    With `double_quant` those magnitudes are 8-bit codes themselves, under one float32 per 256 of them and one mean.
    """

    codebook: Literal["nf4", "fp4"]
    block: int = 64
    double_quant: bool = True

    @property
    def label(self) -> str:
        return f"{self.codebook.upper()}{' double-quantized' if self.double_quant else ''}"

    def bytes_for(self, rows: int, columns: int) -> int:
        """Bytes of codes, absolute maxima, the tables of levels and the note of shape and type beside them."""
        blocks = -(-rows * columns // self.block)
        scales = blocks + -(-blocks // 256) * 4 + 256 * 4 if self.double_quant else blocks * 4
        return -(-rows * columns // 2) + scales + 16 * 4 + BNB_STATE_BYTES


class Int8RowScheme(Record, frozen=True, kw_only=True, tag_field="kind", tag="int8-row"):
    """LLM.int8(): w = code * largest magnitude of the row / 127.

    While it runs, inputs beyond `threshold` go through 16-bit products, the others are rounded to bytes per token.
    """

    threshold: float = 6.0

    @property
    def label(self) -> str:
        return "LLM.int8"

    def bytes_for(self, rows: int, columns: int) -> int:
        """Bytes of codes, row maxima and the one byte that names the order of the codes."""
        return rows * columns + 4 * rows + 1


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


def static_inputs(scheme: WeightScheme) -> ActivationScheme | None:
    """How inputs are rounded under a scale that the file stores; `None` where it stores none."""
    if not isinstance(scheme, IntScheme | MinifloatScheme) or scheme.activations is None:
        return None
    return None if scheme.activations.dynamic else scheme.activations


QuantScheme = IntScheme | MinifloatScheme | CodebookScheme | Int8RowScheme | GgmlScheme
WeightScheme = FloatScheme | QuantScheme
