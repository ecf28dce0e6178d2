"""Inputs of a linear as an engine rounds them, in NumPy, for searches that try many scales on few tokens.

The rules and their sources are those of modeling/rounded_inputs.py, which rounds inside a model's forward pass; tests
hold the two to the same bits.
Dimension key: N tokens · I inputs · G groups along I · s inputs of a group
"""

from __future__ import annotations

import numpy as np

from bitwright.core.schemes import FP8_BLOCK, MX_GROUP, NV_GROUP, ActivationScheme
from bitwright.quantize.activations import INT8_HALF_RANGE
from bitwright.tensors.minifloat_values import MINIFLOATS, decode_minifloat, encode_minifloat
from bitwright.tensors.qtensor import Float32

LOWEST_INT8, HIGHEST_INT8 = -128, 127
LEAST_NV_SCALE = np.float32(0.125)  # what takes the place of a local scale that rounds to zero
MX_UP = np.float32(0.875)  # of the next power of two: from there on a magnitude counts as that power
MX_TOP = {"e2m1": 2, "e4m3": 8}  # exponent of the largest power of two of an element


def rounded_inputs(rows_NI: Float32, activations: ActivationScheme, scale: float | None) -> Float32:
    """float32 [N, I] → what the engine's product sees. `scale` is the stored one of static activations."""
    element = activations.element
    match activations.scaling:
        case "tensor":
            assert scale is not None
            return _nearest(rows_NI, np.full(1, scale, dtype=np.float32), element)
        case "token":
            return _nearest(rows_NI, _plain_scale(rows_NI, element), element)
        case "group":
            grouped_NGs = _grouped(rows_NI, FP8_BLOCK)
            return _joined(_nearest(grouped_NGs, _plain_scale(grouped_NGs, element), element), rows_NI)
        case "nv":
            assert scale is not None
            grouped_NGs = _grouped(rows_NI, NV_GROUP)
            return _joined(_nearest(grouped_NGs, _nv_scale(grouped_NGs, np.float32(scale)), element), rows_NI)
        case "mx":
            grouped_NGs = _grouped(rows_NI, MX_GROUP)
            return _joined(_nearest(grouped_NGs, _mx_scale(grouped_NGs, element), element), rows_NI)


def _grouped(rows_NI: Float32, size: int) -> Float32:
    """Zeros fill the last group."""
    padded_NI = np.pad(rows_NI, ((0, 0), (0, -rows_NI.shape[1] % size)))
    return padded_NI.reshape(len(rows_NI), -1, size)


def _joined(grouped_NGs: Float32, like_NI: Float32) -> Float32:
    return grouped_NGs.reshape(len(grouped_NGs), -1)[:, : like_NI.shape[1]]


def _peak(values: Float32) -> Float32:
    peak: Float32 = np.abs(values).max(axis=-1, keepdims=True)
    return peak


def _plain_scale(values: Float32, element: str) -> Float32:
    half = INT8_HALF_RANGE if element == "int8" else MINIFLOATS[element].largest
    scale: Float32 = _peak(values) / np.float32(half)
    return np.where(scale == 0, np.finfo(np.float32).eps, scale)


def _nv_scale(values: Float32, factor: np.float32) -> Float32:
    local = factor * (_peak(values) / np.float32(MINIFLOATS["e2m1"].largest))
    stored = decode_minifloat(encode_minifloat(local, "e4m3"), "e4m3")
    stored[stored == 0] = LEAST_NV_SCALE
    return stored / factor


def _mx_scale(values: Float32, element: str) -> Float32:
    fraction, exponent = np.frexp(_peak(values))
    power = np.clip(exponent - 1 + (fraction >= MX_UP) - MX_TOP[element], -127, 127)
    scale: Float32 = np.ldexp(np.ones_like(fraction), power)
    return scale


def _nearest(values: Float32, scale: Float32, element: str) -> Float32:
    scaled: Float32 = values / scale
    if element == "int8":
        rounded: Float32 = np.rint(np.clip(scaled, LOWEST_INT8, HIGHEST_INT8)) * scale
        return rounded
    return decode_minifloat(encode_minifloat(scaled, element), element) * scale
