"""Scales per input channel that make a group of linears easier to round (AWQ).

A group's columns are multiplied by s and its inputs divided by it, so the loss of rounding becomes
Σ_i d_i / s_i² · e_i², with d_i the mean square of input i and e the error of the scaled weights. Channels under one
stored scale share a step, so they fare best when none of them sets the step alone and the loud inputs get the finer
share of it. Candidates are s_i = rms(x_i)^a / rms(w_i)^b: a is AWQ's exponent, b levels what the columns differ in.
Each candidate is tried by the weighted scale search on some rows; the bare weights are among the candidates, so a
group that gains nothing is left alone. One search by a diagonal and no repeated forward passes: docs/log.md holds the
comparison with the loss under the full Gram matrix.

Not here: where the inverse goes (facts/blocks.py, pipeline/rescale.py), inputs that are rounded too (smoothing.py).
Source: Lin et al. 2024, arXiv:2306.00978 §3.2, eq. 4 and 5; the exponent of the weights is our own experiment.
Dimension key: O outputs · I inputs
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from bitwright.core.schemes import QuantScheme
from bitwright.quantize.nearest import IMPORTANCE_FLOOR, round_weighted
from bitwright.quantize.solve import SINGLE_THREADED_BLAS
from bitwright.tensors.qtensor import Float32

EXPONENTS = ((0.15, 0.5), (0.25, 0.5), (0.25, 0.65), (0.4, 0.65), (0.5, 0.5))  # of inputs and weights; docs/log.md
DEFAULT_EXPONENTS = (0.25, 0.65)  # chosen most often
TRIAL_ROWS = 256  # evenly spaced rows of each matrix that candidates are tried on
SUMMED_ROWS = 256  # squared at a time
SMALLEST = 1e-6  # of the mean square of the weights: a column of zeros has no size to level
LARGEST = 32.0  # scales stay within 1/LARGEST … LARGEST, far from the ends of half precision


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """`scales_I` multiply columns; `loss` is relative to the bare weights'. Exponents are 0 when nothing helped.

    They are powers of root mean squares, or of largest magnitudes where `peaks` says so (smoothing.py).
    """

    scales_I: Float32
    exponents: tuple[float, float]
    loss: float
    peaks: bool = False


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Evenly spaced rows of one matrix, and the mean square of every column over all of its rows."""

    rows_OI: Float32
    size_I: NDArray[np.float64]


def scale_columns(
    weights_OI: Sequence[Float32],
    schemes: Sequence[QuantScheme],
    mean_square_I: Float32,
    *,
    repeats: int = 1,
    head_dim: int = 1,
    threads: int | None = None,
) -> Scaling:
    """The best scales for matrices that read one input. `schemes` goes with `weights_OI`.

    With `repeats` > 1 the inputs are `repeats` query heads of width `head_dim` for each key-value head, and those heads
    share their scales. The result does not depend on `threads` (default: all cores).
    """
    trials = [trial_of([weight], len(weight)) for weight in weights_OI]
    return scale_trials(trials, schemes, mean_square_I, repeats=repeats, head_dim=head_dim, threads=threads)


def scale_trials(
    trials: Sequence[Trial],
    schemes: Sequence[QuantScheme],
    mean_square_I: Float32,
    *,
    repeats: int = 1,
    head_dim: int = 1,
    threads: int | None = None,
) -> Scaling:
    """`scale_columns` of matrices of which only what is tried is held."""
    if not mean_square_I.mean() > 0:
        return bare_columns(len(mean_square_I))
    square_I = floored(mean_square_I)
    some = [trial.rows_OI for trial in trials]
    size_I = _mean_sizes([trial.size_I for trial in trials])
    candidates = [_scales(square_I, size_I, pair, repeats, head_dim) for pair in EXPONENTS]
    tried = [np.ones(len(square_I), dtype=np.float32), *candidates]
    with SINGLE_THREADED_BLAS(), ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        losses = list(pool.map(lambda scales_I: _loss(some, schemes, square_I, scales_I), tried))
    best = int(np.argmin(losses))
    if best == 0:
        return bare_columns(len(square_I))
    return Scaling(scales_I=tried[best], exponents=EXPONENTS[best - 1], loss=losses[best] / losses[0])


def bare_columns(columns: int) -> Scaling:
    """No scaling."""
    return Scaling(scales_I=np.ones(columns, dtype=np.float32), exponents=(0.0, 0.0), loss=1.0)


def trial_of(parts_OI: Iterable[Float32], rows: int) -> Trial:
    """What a search looks at of a matrix of so many rows, which comes in parts that may be cut anywhere."""
    step, start, some = max(1, rows // TRIAL_ROWS), 0, []
    total_I: NDArray[np.float64] | float = 0.0
    for part_OI in parts_OI:
        some.append(part_OI[-start % step :: step].copy())
        for row in range(0, len(part_OI), SUMMED_ROWS):
            total_I = total_I + np.square(part_OI[row : row + SUMMED_ROWS], dtype=np.float64).sum(axis=0)
        start += len(part_OI)
    return Trial(rows_OI=np.concatenate(some), size_I=np.asarray(total_I / rows))


def trial_rows(weight_OI: Float32) -> Float32:
    """The rows that candidates are tried on, evenly spaced."""
    return weight_OI[:: max(1, len(weight_OI) // TRIAL_ROWS)]


def scale_candidates(
    weights_OI: Sequence[Float32], square_I: NDArray[np.float64], repeats: int, head_dim: int
) -> list[Float32]:
    """The scales of every pair of `EXPONENTS`, in their order. `square_I` is above zero."""
    size_I = _sizes(weights_OI)
    return [_scales(square_I, size_I, pair, repeats, head_dim) for pair in EXPONENTS]


def exponent_scales(
    weights_OI: Sequence[Float32], mean_square_I: NDArray[np.floating], exponents: tuple[float, float]
) -> Float32:
    """The scales of one pair of exponents, not tried."""
    if not mean_square_I.mean() > 0:
        return np.ones(len(mean_square_I), dtype=np.float32)
    return _scales(floored(mean_square_I), _sizes(weights_OI), exponents, 1, 1)


def floored(mean_square_I: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean squares above zero: an input that was never excited still counts."""
    square_I = mean_square_I.astype(np.float64)
    result: NDArray[np.float64] = square_I + IMPORTANCE_FLOOR * square_I.mean()
    return result


def _sizes(weights_OI: Sequence[Float32]) -> NDArray[np.float64]:
    """Mean square of every column over all matrices, above zero."""
    return _mean_sizes([trial_of([weight], len(weight)).size_I for weight in weights_OI])


def _mean_sizes(sizes_I: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    size_I = np.mean(sizes_I, axis=0)
    result: NDArray[np.float64] = size_I + SMALLEST * size_I.mean() + np.finfo(np.float64).tiny
    return result


def _scales(
    square_I: NDArray[np.float64],
    size_I: NDArray[np.float64],
    exponents: tuple[float, float],
    repeats: int,
    head_dim: int,
) -> Float32:
    """rms(x)^a / rms(w)^b, geometric mean 1."""
    a, b = exponents
    log_I = 0.5 * (a * np.log(square_I) - b * np.log(size_I))
    if repeats > 1:
        shared = log_I.reshape(-1, repeats, head_dim).mean(axis=1, keepdims=True)
        log_I = np.repeat(shared, repeats, axis=1).reshape(-1)
    limit = np.log(LARGEST)
    scales_I: Float32 = np.exp(np.clip(log_I - log_I.mean(), -limit, limit)).astype(np.float32)
    return scales_I


def scaled_importance(square_I: NDArray[np.float64], scales_I: Float32) -> Float32:
    """Weight of every input in the scale search once columns are scaled, mean 1."""
    weights_I: Float32 = (square_I / np.square(scales_I, dtype=np.float64)).astype(np.float32)
    weights_I /= weights_I.mean()
    return weights_I


def _loss(
    weights_OI: Sequence[Float32], schemes: Sequence[QuantScheme], square_I: NDArray[np.float64], scales_I: Float32
) -> float:
    """Σ d_i e_i² over all matrices after rounding the scaled columns; e is the error in bare columns."""
    weights_I = scaled_importance(square_I, scales_I)
    total = 0.0
    for weight_OI, scheme in zip(weights_OI, schemes, strict=True):
        scaled_OI = np.ascontiguousarray(weight_OI * scales_I)
        error_OI = (scaled_OI - round_weighted(scaled_OI, weights_I, scheme).decode()) / scales_I
        total += float((np.square(error_OI, dtype=np.float64) @ square_I).sum())
    return total
