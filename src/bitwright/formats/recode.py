"""The same integers under the scheme of another format. Nothing is rounded: what a format cannot hold is refused.

Between integer formats codes, zero points and scales carry over one by one; only the type of the scales may change, and
then every scale must survive the cast. GGUF's blocks have 32 inputs, so a larger group hands its scale to several
blocks. Q4_1 and Q5_1 store the smallest value of a block, -scale * zero, which must be exact too.

    from \\ to            compressed-tensors   gptq (v1)      gptq_v2        awq            gguf
    int 2, 3, 4, 8 bit    any                  zero >= 1      any            4 bit, groups  Q4_0, Q4_1, Q8_0
    int 5 bit             any                  -              -              -              Q5_0, Q5_1
    Q4_0, Q5_0, Q8_0      g32 symmetric        4 and 8 bit    4 and 8 bit    Q4_0           themselves
NF4, FP4, k-quants and IQ types have no integer peer. Floats of few bits have: recode_floats.py.

Not here: reading codes (coded.py), the order of work and the proof (pipeline/convert.py).
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import ArtifactFormat
from bitwright.core.schemes import GROUP_SIZES, FloatDtype, GgmlScheme, IntScheme, QuantScheme
from bitwright.formats.packed.gptq_packing import BITS as GPTQ_BITS
from bitwright.formats.recode_floats import is_minifloat, recode_floats
from bitwright.tensors.qtensor import Array, Float32, QTensor

GGML_GROUP = 32
GGML_SYMMETRIC = {4: "Q4_0", 5: "Q5_0", 8: "Q8_0"}
GGML_ASYMMETRIC = {4: "Q4_1", 5: "Q5_1"}
GGML_INTEGERS = {kind: bits for bits, kind in GGML_SYMMETRIC.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class Losses:
    """Scales that the target's type would change, of how many, and the largest relative change."""

    count: int = 0
    total: int = 0
    largest: float = 0.0

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.count + other.count, self.total + other.total, max(self.largest, other.largest))


def recode(value: QTensor, format: ArtifactFormat) -> tuple[QTensor, Losses]:
    """The matrix as `format` holds it. With losses, the result is not to be used.

    Raises `UnsupportedError` with the reason where the integers have no place in the format.
    """
    if isinstance(value.scheme, GgmlScheme) and format == "gguf":
        return value, Losses()
    if is_minifloat(value):
        return recode_floats(value, format), Losses()
    integers = as_integers(value)
    match format:
        case "compressed-tensors" | "awq" | "gguf" if _integers(integers).ordered:
            raise UnsupportedError(f"columns are grouped in an order of their own, which {format} has no place for")
        case "compressed-tensors":
            return integers, Losses()
        case "gptq" | "gptq_v2":
            return _gptq(integers, format)
        case "awq":
            return _awq(integers)
        case "gguf":
            return _ggml(integers)
        case "fp8" | "modelopt":
            raise UnsupportedError(f"{format} folders hold small floats, not {integers.scheme.label}")
        case _:
            raise UnsupportedError("bitsandbytes' levels are no integers")


def as_integers(value: QTensor) -> QTensor:
    """The matrix in our integer scheme. Raises `UnsupportedError` where its levels are not evenly spaced integers."""
    scheme = value.scheme
    if isinstance(scheme, IntScheme):
        return _without_activations(value, scheme)
    bits = GGML_INTEGERS.get(scheme.type) if isinstance(scheme, GgmlScheme) else None
    if bits is None:
        raise UnsupportedError(f"{scheme.label} is no grid of integers under one scale per group")
    offset = 0 if bits == 8 else 1 << (bits - 1)
    codes = (value.codes.astype(np.int16) - offset).astype(np.int8)
    integers = IntScheme(bits=bits, group_size=GGML_GROUP, scale_dtype="f16")
    return QTensor(scheme=integers, codes=codes, fields={"scale": value.fields["d"].astype(np.float32)})


def _without_activations(value: QTensor, scheme: IntScheme) -> QTensor:
    plain = _scheme(scheme, scheme.scale_dtype, symmetric=scheme.symmetric)
    fields = {name: field for name, field in value.fields.items() if name != "input_scale"}
    return QTensor(scheme=plain, codes=value.codes, fields=fields)


def _gptq(value: QTensor, format: ArtifactFormat) -> tuple[QTensor, Losses]:
    scheme = _integers(value)
    if scheme.bits not in GPTQ_BITS:
        raise UnsupportedError(f"GPTQ files hold 2, 3, 4 or 8 bits, not {scheme.bits}")
    if format == "gptq" and not scheme.symmetric:
        zeros = int((value.fields["zero_point"] == -(1 << (scheme.bits - 1))).sum())
        if zeros:
            raise UnsupportedError(f"{zeros} zero points are 0, which GPTQ version 1 cannot hold; gptq_v2 can")
    return _with_half_scales(value, symmetric=scheme.symmetric)


def _awq(value: QTensor) -> tuple[QTensor, Losses]:
    scheme = _integers(value)
    if scheme.bits != 4 or scheme.group_size not in GROUP_SIZES:
        raise UnsupportedError(f"AWQ files hold 4 bits in groups of 32, 64 or 128, not {scheme.label}")
    return _with_half_scales(value, symmetric=False)


def _with_half_scales(value: QTensor, *, symmetric: bool) -> tuple[QTensor, Losses]:
    scheme = _integers(value)
    scale_OG, losses = _half(value.fields["scale"].astype(np.float32))
    fields: dict[str, Array] = {"scale": scale_OG}
    if scheme.ordered:
        fields["group_index"] = value.fields["group_index"]
    if not symmetric:
        fields["zero_point"] = value.fields.get("zero_point", np.zeros(scale_OG.shape, dtype=np.int8))
    return QTensor(scheme=_scheme(scheme, "f16", symmetric=symmetric), codes=value.codes, fields=fields), losses


def _ggml(value: QTensor) -> tuple[QTensor, Losses]:
    scheme = _integers(value)
    kinds = GGML_SYMMETRIC if scheme.symmetric else GGML_ASYMMETRIC
    kind, columns = kinds.get(scheme.bits), value.codes.shape[1]
    if kind is None:
        raise UnsupportedError(f"GGUF has no type for {scheme.label}")
    group = scheme.group_size or columns
    if group % GGML_GROUP:
        raise UnsupportedError(f"groups of {group} inputs are no whole blocks of {GGML_GROUP}")
    scale_OB = np.repeat(value.fields["scale"].astype(np.float32), group // GGML_GROUP, axis=1)
    d, losses = _half(scale_OB)
    if scheme.bits == 8:
        return QTensor(scheme=GgmlScheme(type=kind), codes=value.codes, fields={"d": d.astype(np.float16)}), losses
    half = 1 << (scheme.bits - 1)
    codes = (value.codes.astype(np.int16) + half).astype(np.uint8)
    fields: dict[str, Array] = {"d": d.astype(np.float16)}
    if not scheme.symmetric:
        zeros_OB = np.repeat(value.fields["zero_point"].astype(np.float32) + half, group // GGML_GROUP, axis=1)
        m, more = _half(-scale_OB * zeros_OB)
        fields["m"], losses = m.astype(np.float16), losses + more
    return QTensor(scheme=GgmlScheme(type=kind), codes=codes, fields=fields), losses


def _half(values: Float32) -> tuple[Float32, Losses]:
    """Values in 16 bits, as float32, and what that would change."""
    with np.errstate(over="ignore"):
        cast: Float32 = values.astype(np.float16).astype(np.float32)
    lost = cast != values
    if not lost.any():
        return cast, Losses(total=values.size)
    change = np.abs(cast[lost].astype(np.float64) - values[lost]) / np.abs(values[lost])
    return cast, Losses(int(lost.sum()), values.size, float(change.max()))


def _scheme(scheme: IntScheme, scale_dtype: FloatDtype, *, symmetric: bool) -> IntScheme:
    return IntScheme(
        bits=scheme.bits,
        group_size=scheme.group_size,
        symmetric=symmetric,
        scale_dtype=scale_dtype,
        activations=None,
        ordered=scheme.ordered,
    )


def _integers(value: QTensor) -> IntScheme:
    assert isinstance(value.scheme, IntScheme), value.scheme
    return value.scheme


def is_quantized(scheme: object) -> bool:
    """Whether a scheme holds codes."""
    if isinstance(scheme, GgmlScheme):
        return not scheme.is_float
    return isinstance(scheme, QuantScheme)
