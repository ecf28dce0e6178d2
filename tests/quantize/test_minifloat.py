"""Scales and codes of 8-bit and 4-bit floats: laws, an oracle, and codes by llm-compressor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.errors import UsageError
from bitwright.core.schemes import ActivationScheme, IntScheme, MinifloatScheme
from bitwright.quantize.activations import input_scale
from bitwright.quantize.grid import Grid, round_to_grid
from bitwright.quantize.minifloat import minifloat_grid, nearest_codes, shared_fields
from bitwright.quantize.solve import importance, solve
from bitwright.quantize.statistics import Statistics
from bitwright.tensors.minifloat_values import TABLES, decode_e8m0, decode_minifloat
from bitwright.tensors.qtensor import QTensor

SCHEMES = [
    *(
        MinifloatScheme(element=element, scaling=scaling)
        for element in ("e4m3", "e5m2")
        for scaling in ("tensor", "channel", "block")
    ),
    MinifloatScheme(element="e2m1", scaling="nv"),
    MinifloatScheme(element="e2m1", scaling="mx"),
    MinifloatScheme(element="e4m3", scaling="mx"),
]
STATIC = ActivationScheme(element="e4m3", scaling="tensor", dynamic=False)


def name(scheme: MinifloatScheme) -> str:
    return scheme.label.replace(" ", "-")


def problem(seed: int, rows: int = 40, columns: int = 96) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32) * np.exp(rng.standard_normal((rows, 1)))
    inputs = rng.standard_normal((512, columns)) @ (rng.standard_normal((columns, columns)) + 4 * np.eye(columns))
    return weight.astype(np.float32), (inputs.T @ inputs / 512).astype(np.float32)


def plainly(weight: np.ndarray, scheme: MinifloatScheme, peak: float | None = None) -> QTensor:
    """Quantized with the scales that follow from the largest magnitudes alone."""
    shared = shared_fields(float(np.abs(weight).max()) if peak is None else peak, scheme)
    ones = np.ones(weight.shape[1], dtype=np.float32)
    fields = minifloat_grid(weight, ones, scheme, shared, search="plain")[1] | shared
    return QTensor(scheme=scheme, codes=nearest_codes(weight, scheme, fields), fields=fields)


def weighted_loss(weight: np.ndarray, tensor: QTensor, weights: np.ndarray) -> float:
    return float((weights * np.square(weight.astype(np.float64) - tensor.decode())).sum())


@pytest.mark.parametrize("scheme", SCHEMES, ids=name)
def test_the_search_is_never_worse_than_the_plain_scales(scheme: MinifloatScheme) -> None:
    for seed in range(3):
        weight, gram = problem(seed, rows=200, columns=160)
        statistics = Statistics.of(gram, "rtn")
        weights = importance(statistics, 160)
        found, _ = solve(weight, statistics, scheme, "rtn")
        plain = weighted_loss(weight, plainly(weight, scheme), weights)
        assert weighted_loss(weight, found, weights) <= plain * 1.0001
        if scheme.scaling == "nv":
            assert weighted_loss(weight, found, weights) < 0.85 * plain


@pytest.mark.parametrize("scheme", SCHEMES, ids=name)
def test_nearest_codes_are_the_nearest_values(scheme: MinifloatScheme) -> None:
    weight, _ = problem(1, rows=4, columns=32)
    tensor, notes = solve(weight, None, scheme, "rtn")
    table = TABLES[scheme.element]
    levels = table[~np.isnan(table)]
    step = np.abs(tensor.decode()) / np.where(table[tensor.codes] == 0, np.inf, np.abs(table[tensor.codes]))
    best = np.abs(weight[..., None] - step[..., None] * levels).min(axis=-1)
    moved = step > 0
    error = np.abs(weight - tensor.decode())
    np.testing.assert_allclose(error[moved], best[moved], rtol=1e-5, atol=1e-7)
    assert notes.weight_error == pytest.approx(np.square(error).sum() / np.square(weight).sum(), rel=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=name)
def test_feedback_halves_the_output_error(scheme: MinifloatScheme) -> None:
    weight, gram = problem(0, rows=32, columns=256)
    nearest = solve(weight, Statistics.of(gram, "rtn"), scheme, "rtn")[1]
    fed_back = solve(weight, Statistics.of(gram, "gptq"), scheme, "gptq")[1]
    assert fed_back.output_error is not None
    assert nearest.output_error is not None
    assert fed_back.method == "gptq"
    assert fed_back.output_error < 0.75 * nearest.output_error


@pytest.mark.parametrize("scheme", SCHEMES, ids=name)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), size=st.floats(-30, 25))
def test_any_size_of_weights_is_stored_soundly(scheme: MinifloatScheme, seed: int, size: float) -> None:
    weight, _ = problem(seed, rows=3, columns=64)
    weight = (weight * np.float32(2.0) ** np.float32(size)).astype(np.float32)
    weight[1] = 0
    tensor, notes = solve(weight, None, scheme, "rtn")
    assert np.isfinite(tensor.decode()).all()
    assert (tensor.decode()[1] == 0).all()
    assert notes.weight_error < (0.03 if scheme.element == "e2m1" else 0.01)


def test_slabs_do_not_show() -> None:
    for scheme in SCHEMES:
        weight, gram = problem(3, rows=600, columns=96)
        statistics = Statistics.of(gram, "rtn")
        whole, _ = solve(weight, statistics, scheme, "rtn", threads=1)
        first, _ = solve(weight[:256], statistics, scheme, "rtn", peak=float(np.abs(weight).max()))
        np.testing.assert_array_equal(whole.codes[:256], first.codes)


def test_fused_matrices_share_their_factor() -> None:
    nv, tensor = SCHEMES[6], SCHEMES[0]
    (one, _), (other, _) = problem(4), problem(5)
    peak = float(max(np.abs(one).max(), np.abs(other).max()))
    for scheme, field in ((nv, "global_scale"), (tensor, "scale")):
        fields = [solve(weight, None, scheme, "rtn", peak=peak)[0].fields[field] for weight in (one, other)]
        assert fields[0] == fields[1]


def test_static_activations_store_the_scale_of_their_peak() -> None:
    weight, gram = problem(6)
    scheme = MinifloatScheme(element="e4m3", scaling="tensor", activations=STATIC)
    tensor, _ = solve(weight, Statistics.of(gram, "rtn", peak=44.8), scheme, "rtn")
    assert tensor.fields["input_scale"] == pytest.approx([0.1], rel=2**-8)
    with pytest.raises(UsageError, match="needs calibration text"):
        solve(weight, None, scheme, "rtn")
    integers = IntScheme(
        bits=8, group_size=None, activations=ActivationScheme(element="int8", scaling="tensor", dynamic=False)
    )
    assert input_scale(integers, 127.5)["input_scale"] == [1]
    four = MinifloatScheme(
        element="e2m1", scaling="nv", activations=ActivationScheme(element="e2m1", scaling="nv", dynamic=False)
    )
    assert input_scale(four, 2688.0)["input_scale"] == [1]
    assert input_scale(IntScheme(bits=4, group_size=32), None) == {}


PRESETS = {
    "FP8": SCHEMES[0],
    "FP8_DYNAMIC": SCHEMES[1],
    "NVFP4A16": SCHEMES[6],
    "MXFP4A16": SCHEMES[7],
    "MXFP8A16": SCHEMES[8],
}


@pytest.mark.parametrize("preset", PRESETS)
def test_plain_scales_are_those_of_compressed_tensors(preset: str) -> None:
    scheme = PRESETS[preset]
    args = preset_name_to_scheme(preset, ["Linear"]).weights
    weight, _ = problem(7, rows=32, columns=96)
    ours = plainly(weight, scheme)
    values = torch.from_numpy(weight)
    axis = {"tensor": None, "channel": (1, 96), "nv": (6, 16), "mx": (3, 32)}[scheme.scaling]
    tiles = values.reshape(1, 1, -1) if axis is None else values.reshape(32, *axis)
    factor = generate_gparam(values.min(), values.max()) if scheme.scaling == "nv" else None
    scale, _ = calculate_qparams(tiles.amin(-1), tiles.amax(-1), args, global_scale=factor)
    match scheme.scaling:
        case "nv":
            np.testing.assert_array_equal(decode_minifloat(ours.fields["scale_codes"], "e4m3"), scale.numpy())
            np.testing.assert_allclose(ours.fields["global_scale"], factor.numpy(), rtol=2e-7)  # they multiply by 1 / x
        case "mx":
            np.testing.assert_array_equal(decode_e8m0(ours.fields["exponents"]), scale.numpy())
        case _:
            stored = scale.bfloat16().float().numpy().reshape(ours.fields["scale"].shape)
            np.testing.assert_array_equal(ours.fields["scale"], stored)


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((Path(__file__).parents[1] / "golden" / "minifloats_llm_compressor.json").read_text())


def stored_by_llm_compressor(golden: dict[str, Any], preset: str) -> dict[str, np.ndarray]:
    (case,) = [case for case in golden["cases"] if case["preset"] == preset]
    return {name: np.array(value) for name, value in case["stored"].items()}


@pytest.mark.parametrize("preset", ["FP8_DYNAMIC", "FP8_BLOCK", "NVFP4A16", "MXFP4A16", "MXFP8A16"])
def test_plain_codes_are_those_of_llm_compressor(golden: dict[str, Any], preset: str) -> None:
    stored = stored_by_llm_compressor(golden, preset)
    weight = np.array(golden["weight"], dtype=np.float32)
    schemes = PRESETS | {"FP8_BLOCK": SCHEMES[2]}
    scheme = msgspec.structs.replace(schemes[preset], scale_dtype="f32")
    ours = plainly(weight, scheme, peak=golden["peak"])
    codes = stored.get("weight")
    if codes is None:
        packed = stored["weight_packed"].astype(np.uint8)
        codes = np.stack((packed & 15, packed >> 4), axis=-1).reshape(weight.shape)
    np.testing.assert_array_equal(ours.codes, codes)
    scales = ours.fields.get("scale_codes", ours.fields.get("exponents", ours.fields.get("scale")))
    np.testing.assert_array_equal(np.asarray(scales), stored["weight_scale"].astype(scales.dtype))
    if scheme.scaling == "nv":
        np.testing.assert_allclose(ours.fields["global_scale"], stored["weight_global_scale"], rtol=2e-7)


def test_plain_integers_are_those_of_llm_compressor(golden: dict[str, Any]) -> None:
    stored = stored_by_llm_compressor(golden, "W8A8")
    weight = np.array(golden["weight"], dtype=np.float32)
    step = np.abs(weight).max(axis=1, keepdims=True) / np.float32(127.5)
    np.testing.assert_array_equal(step, stored["weight_scale"].astype(np.float32))
    zeros = np.zeros_like(step)
    grid = Grid(step_OG=step, zero_OG=zeros, offset_OG=zeros, group_size=weight.shape[1], low=-128, high=127)
    np.testing.assert_array_equal(round_to_grid(weight, grid), stored["weight"])
