"""Scales for rounded inputs: never worse than none on the sample, and the best of what a plain loop finds."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.schemes import ActivationScheme, InputRounding, IntScheme, MinifloatScheme
from bitwright.modeling.rounded_inputs import round_inputs
from bitwright.quantize.nearest import round_weighted
from bitwright.quantize.scaling import floored, scale_candidates, scale_columns, scaled_importance
from bitwright.quantize.smoothing import (
    ALPHAS,
    LARGEST,
    STATIC_GAIN,
    InputSample,
    output_loss,
    smooth_columns,
    smoothing_scales,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "smoothing_llm_compressor.json"
W8A8 = IntScheme(bits=8, group_size=None, activations=ActivationScheme(element="int8", scaling="token"))
STATIC = IntScheme(
    bits=8, group_size=None, activations=ActivationScheme(element="int8", scaling="tensor", dynamic=False)
)
W4AFP8 = IntScheme(bits=4, group_size=128, activations=ActivationScheme(element="e4m3", scaling="token"))
FP8 = MinifloatScheme(
    element="e4m3", scaling="tensor", activations=ActivationScheme(element="e4m3", scaling="tensor", dynamic=False)
)
NVFP4 = MinifloatScheme(
    element="e2m1", scaling="nv", activations=ActivationScheme(element="e2m1", scaling="nv", dynamic=False)
)
MXFP4 = MinifloatScheme(element="e2m1", scaling="mx", activations=ActivationScheme(element="e2m1", scaling="mx"))
SCHEMES = [W8A8, STATIC, W4AFP8, FP8, NVFP4, MXFP4]
Case = tuple[np.ndarray, np.ndarray, InputSample]


def loud(seed: int, spread: float, *, rows: int = 8, columns: int = 128, tokens: int = 16) -> Case:
    """A plain weight whose inputs differ in size by a log-normal factor, their mean squares, and a sample."""
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, columns)).astype(np.float32)
    inputs = rng.standard_normal((4 * tokens, columns)) * np.exp(spread * rng.standard_normal(columns))
    inputs = inputs.astype(np.float32)
    weights = rng.uniform(0.5, 2, tokens).astype(np.float32)
    sample = InputSample(rows_NI=inputs[::4], weights_N=weights, amax_I=np.abs(inputs).max(axis=0))
    return weight, np.square(inputs).mean(axis=0), sample


def plain_loss(weights: list[np.ndarray], scheme: object, square: np.ndarray, sample: InputSample, scales: np.ndarray):
    """The same loss by the rounding of the forward pass, token by token and in float64."""
    stored = {id(STATIC): 127.5, id(FP8): 448.0}.get(id(scheme))
    peak = torch.tensor(float((sample.amax_I / scales).max()))
    scale = None if stored is None else float((peak / stored).bfloat16())  # a scale is stored as bfloat16
    scale = float(448 * 6 / peak) if scheme is NVFP4 else scale
    total = 0.0
    for weight in weights:
        decoded = round_weighted(weight * scales, scaled_importance(floored(square), scales), scheme).decode()
        for row, count in zip(sample.rows_NI, sample.weights_N, strict=True):
            entering = torch.from_numpy(row / scales)[None]
            entering = round_inputs(entering, InputRounding(scheme=scheme.activations, scale=scale))[0].numpy()
            error = weight.astype("f8") @ row.astype("f8") - decoded.astype("f8") @ entering.astype("f8")
            total += float(count) * float(error @ error)
    return total


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.label)
def test_the_best_candidate_of_a_plain_loop_wins(scheme: object) -> None:
    weight, square, sample = loud(1, 1.0)
    weights = [weight, 3 * weight[:4]]
    peaks = np.maximum(np.abs(weights[0]).max(axis=0), np.abs(weights[1]).max(axis=0))
    tried = [np.ones_like(square)]
    for alpha in ALPHAS:
        scales = sample.amax_I**alpha / peaks ** (1 - alpha)
        tried.append(np.clip(scales / np.exp(np.log(scales).mean()), 1 / LARGEST, LARGEST).astype(np.float32))
    tried += scale_candidates(weights, floored(square), 1, 1)
    losses = [plain_loss(weights, scheme, square, sample, scales) for scales in tried]
    found = smooth_columns(weights, [scheme, scheme], square, sample)
    best = tried[int(np.argmin(losses))]
    assert found.loss == pytest.approx(min(losses) / losses[0], rel=1e-3)
    assert found.loss < STATIC_GAIN
    np.testing.assert_allclose(found.scales_I, best, rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.label)
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 3))
def test_smoothing_never_loses_on_the_sample(scheme: object, seed: int, spread: float) -> None:
    weight, square, sample = loud(seed, spread)
    found = smooth_columns([weight], [scheme], square, sample, threads=1)
    bare, scaled = (
        output_loss([weight], [scheme], floored(square), sample, scales)
        for scales in (np.ones_like(square), found.scales_I)
    )
    assert scaled <= bare
    assert found.loss == pytest.approx(scaled / bare)
    assert (found.exponents == (0.0, 0.0)) == bool((found.scales_I == 1).all())
    assert (found.scales_I <= LARGEST * 1.01).all()
    assert (found.scales_I >= 0.99 / LARGEST).all()


def test_loud_channels_are_levelled_where_scales_by_weight_error_leave_them() -> None:
    weight, square, sample = loud(3, 1.5, rows=64, columns=256, tokens=64)
    found = smooth_columns([weight], [W8A8], square, sample)
    by_weights = scale_columns([weight], [W8A8], square)
    assert found.peaks
    assert found.loss < 0.3
    losses = [
        output_loss([weight], [W8A8], floored(square), sample, scales)
        for scales in (found.scales_I, by_weights.scales_I)
    ]
    assert losses[0] < 0.7 * losses[1]


def test_a_small_gain_does_not_move_stored_scales() -> None:
    gains = []
    for seed in range(12):
        weight, square, sample = loud(seed, 0.1)
        tried = [smoothing_scales(sample.amax_I, np.abs(weight).max(axis=0), alpha) for alpha in ALPHAS]
        losses = [output_loss([weight], [FP8], floored(square), sample, scales) for scales in tried]
        bare = output_loss([weight], [FP8], floored(square), sample, np.ones_like(square))
        found = smooth_columns([weight], [FP8], square, sample)
        gains.append(min(losses) / bare)
        assert found.loss == 1 or found.loss <= STATIC_GAIN
    assert any(STATIC_GAIN < gain < 1 for gain in gains)


@pytest.mark.parametrize("alpha", ["0.3", "0.5", "0.8"])
def test_scales_are_those_of_llm_compressor_but_for_a_factor(alpha: str) -> None:
    case = json.loads(GOLDEN.read_text())
    amax = np.abs(np.array(case["inputs"], dtype=np.float32)).max(axis=0)
    peaks = np.abs(np.concatenate([np.array(weight, dtype=np.float32) for weight in case["weights"]])).max(axis=0)
    theirs = np.array(case["scales"][alpha])
    ours = smoothing_scales(amax, peaks, float(alpha))
    np.testing.assert_allclose(ours, theirs / np.exp(np.log(theirs).mean()), rtol=1.3e-6)


def test_heads_that_read_one_value_share_scales() -> None:
    weight, square, sample = loud(4, 1.0, columns=256)
    scales = smooth_columns([weight], [W8A8], square, sample, repeats=2, head_dim=32).scales_I.reshape(-1, 2, 32)
    assert np.array_equal(scales[:, 0], scales[:, 1])
    assert len(np.unique(scales)) > 1


def test_what_is_tried_is_what_can_be_stored() -> None:
    weight, square, sample = loud(5, 1.0)
    found = smooth_columns([weight], [W8A8], square, sample, storable=lambda scales: np.exp2(np.rint(np.log2(scales))))
    assert np.array_equal(found.scales_I, np.exp2(np.rint(np.log2(found.scales_I))))
    assert len(np.unique(found.scales_I)) > 1


def test_silent_channels_and_columns_of_zeros_take_no_part() -> None:
    weight, square, sample = loud(6, 1.0)
    sample.rows_NI[:, 5], sample.amax_I[5], square[5], weight[:, 7] = 0, 0, 0, 0
    assert np.isfinite(smooth_columns([weight], [W8A8], square, sample).scales_I).all()
    nothing = InputSample(rows_NI=0 * sample.rows_NI, weights_N=sample.weights_N, amax_I=0 * sample.amax_I)
    assert smooth_columns([weight], [W8A8], 0 * square, nothing).exponents == (0.0, 0.0)
    assert smooth_columns([0 * weight], [W8A8], square, sample).exponents == (0.0, 0.0)


def test_threads_do_not_matter() -> None:
    weight, square, sample = loud(7, 1.0)
    one, four = (smooth_columns([weight], [STATIC], square, sample, threads=threads) for threads in (1, 4))
    assert one.exponents == four.exponents
    assert np.array_equal(one.scales_I, four.scales_I)
