"""One quantized matrix as the bytes of a compressed-tensors file. Names, types and shapes: facts/stored_tensors.py.

Codes and scales are laid down as they are; a scale that its stored type would round is our bug. NVFP4 stores its global
scale as a divisor, and the even input of a pair in the low half of a byte.

Source: compressed-tensors 0.20, compressors/{pack_quantized,naive_quantized,nvfp4,mxfp4,mxfp8}/base.py.
"""

from __future__ import annotations

import numpy as np

from bitwright.core.schemes import IntScheme, MinifloatScheme
from bitwright.facts.stored_tensors import quantized_parts
from bitwright.formats.layout import float_bytes, is_exact
from bitwright.formats.packing import pack_nibbles, pack_rows
from bitwright.tensors.qtensor import Array, QTensor


def encode_quantized(module: str, value: QTensor, shape: tuple[int, ...] | None = None) -> dict[str, bytes]:
    """Stored name → bytes. `shape` is the whole matrix's, where `value` holds some of its rows."""
    scheme = value.scheme
    assert isinstance(scheme, IntScheme | MinifloatScheme), scheme
    if isinstance(scheme, MinifloatScheme):
        stored = _minifloat(module, value, scheme)
    else:
        stored = (
            _packed(module, value, scheme, shape or value.shape) if scheme.packed else _integers(module, value, scheme)
        )
    if "input_scale" in value.fields:
        name = "input_global_scale" if _is_nv(scheme) else "input_scale"
        dtype = "f32" if _is_nv(scheme) else scheme.scale_dtype
        stored[name] = _scales(module, value.fields["input_scale"], dtype)
    assert stored.keys() == quantized_parts(scheme, *value.shape).keys(), (module, sorted(stored))
    return {f"{module}.{name}": data for name, data in stored.items()}


def _is_nv(scheme: IntScheme | MinifloatScheme) -> bool:
    return isinstance(scheme, MinifloatScheme) and scheme.scaling == "nv"


def _packed(module: str, value: QTensor, scheme: IntScheme, shape: tuple[int, ...]) -> dict[str, bytes]:
    stored = {
        "weight_packed": pack_rows(value.codes, scheme.bits).tobytes(),
        "weight_scale": _scales(module, value.fields["scale"], scheme.scale_dtype),
        "weight_shape": np.array(shape, dtype="<i8").tobytes(),
    }
    if not scheme.symmetric:
        words = pack_rows(value.fields["zero_point"].T, scheme.bits).T
        stored["weight_zero_point"] = np.ascontiguousarray(words).tobytes()
    return stored


def _integers(module: str, value: QTensor, scheme: IntScheme) -> dict[str, bytes]:
    return {
        "weight": value.codes.astype(np.int8).tobytes(),
        "weight_scale": _scales(module, value.fields["scale"], scheme.scale_dtype),
    }


def _minifloat(module: str, value: QTensor, scheme: MinifloatScheme) -> dict[str, bytes]:
    codes = value.codes.astype(np.uint8)
    stored = {"weight_packed": pack_nibbles(codes)} if scheme.element == "e2m1" else {"weight": codes}
    data = {name: np.ascontiguousarray(part).tobytes() for name, part in stored.items()}
    match scheme.scaling:
        case "nv":
            data["weight_scale"] = value.fields["scale_codes"].astype(np.uint8).tobytes()
            data["weight_global_scale"] = _scales(module, value.fields["global_scale"], "f32")
        case "mx":
            data["weight_scale"] = value.fields["exponents"].astype(np.uint8).tobytes()
        case _:
            data["weight_scale"] = _scales(module, value.fields["scale"], scheme.scale_dtype)
    return data


def _scales(module: str, values: Array, dtype: str) -> bytes:
    scale = values.astype(np.float32)
    assert is_exact(scale, dtype), f"{module}: a scale is not representable in {dtype}"
    return float_bytes(scale, dtype)
