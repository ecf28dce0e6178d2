"""The same small floats under the scheme of another format. Codes and local scales are carried over one by one.

    from \\ to                     compressed-tensors   fp8             modelopt        gguf
    FP8 per matrix, static inputs  yes                  yes             yes             -
    FP8 per matrix, per token      yes                  yes             -               -
    FP8 per channel, per token     yes                  -               yes             -
    FP8 per 128 x 128              yes                  yes             -               -
    NVFP4, NVFP4A16                yes                  -               yes             -
    MXFP8                          yes                  -               yes             -
    MXFP4                          yes                  -               -               MXFP4, weights alone
Scales become float32, which holds all of them. The factors of NVFP4 are divisors in compressed-tensors and multipliers
in ModelOpt: their reciprocals are rounded to float32. GGUF's MXFP4 has the same exponents and codes in another order of
nibbles, and engines there choose by themselves how they round inputs.

Not here: integers (recode.py), the order of work and the proof (pipeline/convert.py).
"""

from __future__ import annotations

import msgspec
import numpy as np

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import ArtifactFormat
from bitwright.core.schemes import GgmlScheme, MinifloatScheme
from bitwright.facts.float_folders import FLOAT_FOLDERS, TYPES, type_name
from bitwright.tensors.qtensor import Array, QTensor

GGML_MX = GgmlScheme(type="MXFP4")


def is_minifloat(value: QTensor) -> bool:
    """Whether the codes are small floats."""
    return isinstance(value.scheme, MinifloatScheme) or value.scheme == GGML_MX


def recode_floats(value: QTensor, format: ArtifactFormat) -> QTensor:
    """The matrix as `format` holds it. Raises `UnsupportedError` with the reason where it has no place there."""
    held = _from_ggml(value)
    scheme = held.scheme
    assert isinstance(scheme, MinifloatScheme), scheme
    if format == "gguf":
        return _to_ggml(held, scheme)
    if format == "compressed-tensors":
        return _under(held, msgspec.structs.replace(scheme, factor="divisor"))
    if format not in FLOAT_FOLDERS:
        raise UnsupportedError(f"{scheme.label} is no grid of integers under one scale per group")
    target = msgspec.structs.replace(scheme, scale_dtype="f32")
    if scheme.scaling == "nv":
        target = msgspec.structs.replace(target, factor="multiplier")
    if type_name(format, target) is None:
        known = ", ".join(scheme.label for scheme in TYPES[format].values())
        raise UnsupportedError(f"{format} folders have no place for {scheme.label}, they hold {known}")
    return _under(held, target)


def _under(value: QTensor, target: MinifloatScheme) -> QTensor:
    """The same codes under `target`."""
    assert isinstance(value.scheme, MinifloatScheme), value.scheme
    fields = dict(value.fields)
    if target.factor != value.scheme.factor:
        for name in fields.keys() & {"global_scale", "input_scale"}:
            fields[name] = _inverse(fields[name])
    return QTensor(scheme=target, codes=value.codes, fields=fields)


def _inverse(factor: Array) -> Array:
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / factor.astype(np.float32)
    if not (np.isfinite(inverse) & (inverse > 0)).all():
        raise UnsupportedError(f"the factor {float(factor[0]):g} has no reciprocal in float32")
    return inverse


def _to_ggml(value: QTensor, scheme: MinifloatScheme) -> QTensor:
    if (scheme.element, scheme.scaling) != ("e2m1", "mx"):
        if scheme.scaling == "nv":
            raise UnsupportedError("GGUF's NVFP4 keeps its factor in a tensor of its own, which is not written here")
        raise UnsupportedError(f"GGUF has no type for {scheme.label}")
    return QTensor(scheme=GGML_MX, codes=value.codes, fields={"e": value.fields["exponents"]})


def _from_ggml(value: QTensor) -> QTensor:
    if value.scheme != GGML_MX:
        return value
    scheme = MinifloatScheme(element="e2m1", scaling="mx")
    return QTensor(scheme=scheme, codes=value.codes, fields={"exponents": value.fields["e"]})
