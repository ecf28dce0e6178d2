"""Rounded inputs, against the fake quantization of compressed-tensors."""

from __future__ import annotations

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs, preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import fake_quantize
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

from bitwright.core.schemes import ActivationScheme, InputRounding
from bitwright.modeling.rounded_inputs import round_inputs
from bitwright.modeling.walk import Linear

DYNAMIC = {
    "W8A8": ActivationScheme(element="int8", scaling="token"),
    "FP8_DYNAMIC": ActivationScheme(element="e4m3", scaling="token"),
    "FP8_BLOCK": ActivationScheme(element="e4m3", scaling="group"),
    "MXFP4": ActivationScheme(element="e2m1", scaling="mx"),
    "MXFP8": ActivationScheme(element="e4m3", scaling="mx"),
    "NVFP4": ActivationScheme(element="e2m1", scaling="nv", dynamic=False),
}


def activations(seed: int = 0) -> torch.Tensor:
    """Tokens of very different size with a few loud channels, one token and one group of zeros."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(2, 9, 256, generator=generator) * torch.randn(2, 9, 1, generator=generator).exp()
    values[..., 7] *= 60
    values[0, 3] = 0
    values[1, 2, 128:160] = 0
    return values


@pytest.mark.parametrize("preset", DYNAMIC)
def test_dynamic_inputs_are_those_of_compressed_tensors(preset: str) -> None:
    args = preset_name_to_scheme(preset, ["Linear"]).input_activations
    values = activations()
    factor = torch.tensor([448 * 6 / float(values.abs().max())]) if preset == "NVFP4" else None
    scale, zero = compute_dynamic_scales_and_zp(values, args, torch.nn.Linear(1, 1), global_scale=factor)
    theirs = fake_quantize(values, scale, zero, args, global_scale=factor)
    ours = round_inputs(values, InputRounding(scheme=DYNAMIC[preset], scale=None if factor is None else float(factor)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    assert 0 < float((ours - values).norm() / values.norm()) < 0.2


@pytest.mark.parametrize(("element", "kind", "largest"), [("int8", "int", 127.5), ("e4m3", "float", 448.0)])
def test_static_inputs_are_those_of_compressed_tensors(element: str, kind: str, largest: float) -> None:
    args = QuantizationArgs(num_bits=8, type=kind, strategy="tensor", symmetric=True, dynamic=False)
    values = activations(1)
    scale = values.abs().max() / largest / 2  # too small on purpose: the largest values saturate
    theirs = fake_quantize(values, scale, torch.zeros(1), args)
    scheme = ActivationScheme(element=element, scaling="tensor", dynamic=False)
    ours = round_inputs(values, InputRounding(scheme=scheme, scale=float(scale)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_how_far_the_scale_of_vllm_moves_int8_inputs() -> None:
    """Docs/decisions/0008: 127 where the library has 127.5. The scale is 0.4 % wider, the error about 1 % another."""
    values = torch.randn(4000, 512, generator=torch.Generator().manual_seed(3))
    peak = values.abs().amax(dim=-1, keepdim=True)
    vllm = (values / (peak / 127)).clamp(-128, 127).round() * (peak / 127)
    ours = round_inputs(values, InputRounding(scheme=DYNAMIC["W8A8"]))
    assert float((vllm / (peak / 127)).abs().max()) == pytest.approx(127)
    assert float((ours / (peak / 127.5)).abs().max()) == pytest.approx(128)
    errors = [float((rounded - values).square().sum()) for rounded in (vllm, ours)]
    assert errors[0] / errors[1] == pytest.approx((127.5 / 127) ** 2, abs=0.01)


def test_a_last_group_that_is_not_full_is_rounded_by_itself() -> None:
    values = activations()[..., :200]
    rounding = InputRounding(scheme=DYNAMIC["FP8_BLOCK"])
    rounded = round_inputs(values, rounding)
    assert rounded.shape == values.shape
    token = InputRounding(scheme=DYNAMIC["FP8_DYNAMIC"])
    torch.testing.assert_close(rounded[..., 128:], round_inputs(values[..., 128:], token), rtol=0, atol=0)


def test_a_linear_layer_rounds_what_it_is_told_to() -> None:
    layer = torch.nn.Linear(256, 8, bias=False)
    layer.__class__ = Linear
    values = activations(2)
    with torch.no_grad():
        exact = layer(values)
        layer.rounding = InputRounding(scheme=DYNAMIC["W8A8"])
        rounded = layer(values)
        torch.testing.assert_close(rounded, round_inputs(values, layer.rounding) @ layer.weight.T, rtol=1e-4, atol=1e-4)
    assert float((rounded - exact).norm()) > 1e-3
