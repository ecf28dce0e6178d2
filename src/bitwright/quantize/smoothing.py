"""Scales per input channel for linears whose inputs the engine rounds too (SmoothQuant).

Multiplying columns by s and dividing inputs by s moves what is hard to round from the inputs, where a few channels are
loud, to the weights. Candidates are

    s_i = max|x_i|^alpha / max|w_i|^(1 - alpha)

over a grid of alpha, the candidates of scaling.py, and no scaling. Each is scored by what counts, the error of the
outputs on a sample of tokens with both roundings:

    Σ_n ‖ W x_n - R(W diag(s)) · r(x_n / s) ‖²

r is the engine's rounding of inputs (input_rounding.py), a stored scale taken from the largest magnitude after
dividing. R is the weighted search with the nearest codes on some rows; error feedback comes later, where the method has
it. No alpha is fixed for a whole model: every group takes its own, or none.

Not here: where the inverse goes (facts/blocks.py, pipeline/rescale.py).
Source: Xiao et al. 2023, arXiv:2211.10438 §4, eq. 4 (the formula; alpha by search instead of by hand is ours).
Dimension key: N tokens · O outputs · I inputs
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bitwright.core.schemes import ActivationScheme, IntScheme, MinifloatScheme, QuantScheme
from bitwright.quantize.activations import input_scale
from bitwright.quantize.input_rounding import rounded_inputs
from bitwright.quantize.nearest import round_weighted
from bitwright.quantize.scaling import (
    EXPONENTS,
    SMALLEST,
    Scaling,
    bare_columns,
    floored,
    scale_candidates,
    scaled_importance,
    trial_rows,
)
from bitwright.quantize.solve import SINGLE_THREADED_BLAS
from bitwright.tensors.qtensor import Float32

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # the paper takes 0.5, and 0.75 for models with louder channels (§4)
# A stored scale ends where calibration ended, and once channels are level all of them come near that end: text that is
# louder is cut off more often. A stored scale is smoothed only for less than this share of the error (docs/log.md).
STATIC_GAIN = 0.9
LARGEST = 256.0  # scales stay within 1/LARGEST … LARGEST of their mean; inputs reach further than weights do


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class InputSample:
    """Some tokens of one input and their weights, and the largest magnitude of every channel over all tokens."""

    rows_NI: Float32
    weights_N: Float32
    amax_I: Float32


def activations_of(scheme: QuantScheme) -> ActivationScheme | None:
    """How engines round the inputs of a linear with this scheme; `None` when they leave them alone."""
    return scheme.activations if isinstance(scheme, IntScheme | MinifloatScheme) else None


def _stores_scale(scheme: QuantScheme) -> bool:
    activations = activations_of(scheme)
    return activations is not None and not activations.dynamic


def smooth_columns(
    weights_OI: Sequence[Float32],
    schemes: Sequence[QuantScheme],
    mean_square_I: Float32,
    sample: InputSample,
    *,
    repeats: int = 1,
    head_dim: int = 1,
    storable: Callable[[Float32], Float32] | None = None,
    threads: int | None = None,
) -> Scaling:
    """The best scales for matrices that read one input; `loss` is the output error on the sample over that of none.

    `schemes` goes with `weights_OI`; `repeats` and `head_dim` are those of `scale_columns`. `storable` rounds scales to
    what can be stored, before they are tried. The result does not depend on `threads` (default: all cores).
    """
    if not mean_square_I.mean() > 0:
        return bare_columns(len(mean_square_I))
    square_I = floored(mean_square_I)
    peaks_I = np.max([np.abs(weight).max(axis=0) for weight in weights_OI], axis=0)
    smoothed = [smoothing_scales(sample.amax_I, peaks_I, alpha, repeats, head_dim) for alpha in ALPHAS]
    candidates = [*smoothed, *scale_candidates(weights_OI, square_I, repeats, head_dim)]
    if storable is not None:
        candidates = [storable(scales_I) for scales_I in candidates]
    tried = [np.ones(len(square_I), dtype=np.float32), *candidates]
    some = [trial_rows(weight) for weight in weights_OI]
    with SINGLE_THREADED_BLAS(), ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        losses = list(pool.map(lambda scales_I: output_loss(some, schemes, square_I, sample, scales_I), tried))
    best = int(np.argmin(losses))
    if best == 0 or losses[best] > losses[0] * (STATIC_GAIN if any(map(_stores_scale, schemes)) else 1.0):
        return bare_columns(len(square_I))
    exponents = (*((alpha, round(1 - alpha, 2)) for alpha in ALPHAS), *EXPONENTS)
    return Scaling(
        scales_I=tried[best], exponents=exponents[best - 1], loss=losses[best] / losses[0], peaks=best <= len(ALPHAS)
    )


def smoothing_scales(
    amax_I: NDArray[np.floating],
    peaks_I: NDArray[np.floating],
    alpha: float,
    repeats: int = 1,
    head_dim: int = 1,
) -> Float32:
    """Eq. 4, geometric mean 1: largest magnitudes of inputs to alpha over those of columns to 1 - alpha.

    Heads that share scales (`repeats` > 1) take the largest magnitudes of all.
    """
    logs = []
    for largest_I in (amax_I, peaks_I):
        above_I = np.maximum(
            largest_I.astype(np.float64), SMALLEST * float(largest_I.max()) + np.finfo(np.float64).tiny
        )
        if repeats > 1:
            shared = above_I.reshape(-1, repeats, head_dim).max(axis=1, keepdims=True)
            above_I = np.repeat(shared, repeats, axis=1).reshape(-1)
        logs.append(np.log(above_I))
    log_I = alpha * logs[0] - (1 - alpha) * logs[1]
    limit = np.log(LARGEST)
    scales_I: Float32 = np.exp(np.clip(log_I - log_I.mean(), -limit, limit)).astype(np.float32)
    return scales_I


def output_loss(
    weights_OI: Sequence[Float32],
    schemes: Sequence[QuantScheme],
    square_I: NDArray[np.float64],
    sample: InputSample,
    scales_I: Float32,
) -> float:
    """The squared error of all outputs on the sample, both roundings included."""
    divided_NI = sample.rows_NI / scales_I
    peak = float((sample.amax_I / scales_I).max())
    importance_I = scaled_importance(square_I, scales_I)
    total = 0.0
    seen: dict[QuantScheme, Float32] = {}
    for weight_OI, scheme in zip(weights_OI, schemes, strict=True):
        if scheme not in seen:
            seen[scheme] = _entering(divided_NI, scheme, peak)
        scaled_OI = np.ascontiguousarray(weight_OI * scales_I)
        decoded_OI = round_weighted(scaled_OI, importance_I, scheme).decode()
        error_NO = sample.rows_NI @ weight_OI.T - seen[scheme] @ decoded_OI.T
        total += float(sample.weights_N.astype(np.float64) @ np.square(error_NO, dtype=np.float64).sum(axis=1))
    return total


def _entering(divided_NI: Float32, scheme: QuantScheme, peak: float) -> Float32:
    """Inputs as the product sees them."""
    activations = activations_of(scheme)
    if activations is None:
        return divided_NI
    stored = input_scale(scheme, peak)
    return rounded_inputs(divided_NI, activations, float(stored["input_scale"][0]) if stored else None)
