"""Inputs of a linear as an engine rounds them before it multiplies: integers, 8-bit and 4-bit floats.

    int8    round(x / s), -128 to 127, s = largest magnitude / 127.5        per token, or stored per tensor
    e4m3    nearest E4M3 of x / s, s = largest magnitude / 448              per token, per 128 inputs, or stored
    nv      nearest E2M1 of x / s, s = E4M3(factor * peak / 6) / factor     per 16 inputs under a stored factor
    mx      nearest E2M1 or E4M3 of x / s, s a power of two                 per 32 inputs

Values come back in float32, scaled again, so that any product can follow. These are the rules of compressed-tensors;
vLLM divides int8 per token by 127 (docs/decisions/0009-int8-scale-of-tokens.md), other engines differ in the last bit
of a scale.

Source: compressed-tensors 0.20, quantization/lifecycle/forward.py and quantization/utils/{helpers,mxfp_utils}.py.
"""

from __future__ import annotations

import torch
from torch import nn

from bitwright.core.schemes import FP8_BLOCK, MX_GROUP, NV_GROUP, InputRounding

INT8 = (-128.0, 127.0, 127.5)
E4M3_LARGEST, E2M1_LARGEST = 448.0, 6.0
LEAST_NV_SCALE = 0.125  # what takes the place of a local scale that rounds to zero
MX_UP = 0.875  # of the next power of two: from there on a magnitude counts as that power


def round_inputs(inputs: torch.Tensor, rounding: InputRounding) -> torch.Tensor:
    """[..., I] → float32 [..., I], every value one that the engine's product sees."""
    values = inputs.float()
    scheme, width = rounding.scheme, values.shape[-1]
    match scheme.scaling:
        case "tensor":
            assert rounding.scale is not None
            return _rounded(values, torch.tensor(rounding.scale), scheme.element)
        case "token":
            return _rounded(values, _plain_scale(values, scheme.element), scheme.element)
        case "group":
            grouped = _groups(values, FP8_BLOCK)
            return _joined(_rounded(grouped, _plain_scale(grouped, scheme.element), scheme.element), width)
        case "nv":
            grouped = _groups(values, NV_GROUP)
            return _joined(_rounded(grouped, _nv_scale(grouped, rounding), scheme.element), width)
        case "mx":
            grouped = _groups(values, MX_GROUP)
            return _joined(_rounded(grouped, _mx_scale(grouped, scheme.element), scheme.element), width)


def _groups(values: torch.Tensor, size: int) -> torch.Tensor:
    """[..., I] → [..., G, size]; zeros fill the last group."""
    padded = nn.functional.pad(values, (0, -values.shape[-1] % size))
    return padded.view(*padded.shape[:-1], -1, size)


def _joined(grouped: torch.Tensor, width: int) -> torch.Tensor:
    return grouped.flatten(-2)[..., :width]


def _peak(values: torch.Tensor) -> torch.Tensor:
    return values.abs().amax(dim=-1, keepdim=True)


def _plain_scale(values: torch.Tensor, element: str) -> torch.Tensor:
    scale = _peak(values) / (INT8[2] if element == "int8" else E4M3_LARGEST)
    return torch.where(scale == 0, torch.finfo(torch.float32).eps, scale)


def _nv_scale(values: torch.Tensor, rounding: InputRounding) -> torch.Tensor:
    assert rounding.scale is not None
    factor = torch.tensor(rounding.scale)
    local = (factor * (_peak(values) / E2M1_LARGEST)).clamp(max=E4M3_LARGEST).to(torch.float8_e4m3fn).float()
    return torch.where(local == 0, LEAST_NV_SCALE, local) / factor


def _mx_scale(values: torch.Tensor, element: str) -> torch.Tensor:
    fraction, exponent = torch.frexp(_peak(values))
    offset = 2 if element == "e2m1" else 8
    power = exponent - 1 + (fraction >= MX_UP).int() - offset
    return torch.ldexp(torch.ones_like(fraction), power.clamp(-127, 127))


def _rounded(values: torch.Tensor, scale: torch.Tensor, element: str) -> torch.Tensor:
    scaled = values / scale
    match element:
        case "int8":
            return scaled.clamp(INT8[0], INT8[1]).round() * scale
        case "e4m3":
            return scaled.clamp(-E4M3_LARGEST, E4M3_LARGEST).to(torch.float8_e4m3fn).float() * scale
        case _:
            scaled = scaled.clamp(-E2M1_LARGEST, E2M1_LARGEST)
            size = scaled.abs()
            gap = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))  # between neighbouring values of E2M1
            return torch.round(scaled / gap) * gap * scale
