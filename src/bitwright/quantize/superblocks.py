"""What the searches of all super-blocks share: factors for real steps, and the rounds that fit integers under them.

Arrays are turned, as the loops want them (lane_sums.py).
Not here: what a step is (kquants.py, level_blocks.py).
Dimension key: O outputs · N super-blocks per row · S sub-blocks per row
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitwright.quantize import block_fits, kernels
from bitwright.quantize.integer import round_scale
from bitwright.tensors.qtensor import Array, Float32

SUPER = 256
ROUNDS = 2  # of integers, then least-squares factors; a third lowers the error by under 0.1 %
FACTOR_SHRINKS = np.linspace(0.8, 1.25, 9, dtype=np.float32)  # of the factor that the largest step asks for


class Fit(Protocol):
    """Integers near the real steps under given factors: fills integers, better factors, and the loss of these."""

    def __call__(self, d_NO: Float32, scales_SO: Array, next_d_NO: Float32, loss_NO: Float32) -> None: ...


def factors(value_SO: Float32, weight_SO: Float32, per_super: int, ends: tuple[int, int]) -> Float32:
    """One factor per super-block, [N, O], whose multiples by integers in `ends` come nearest to the values."""
    factor_NO = np.empty((value_SO.shape[0] // per_super, value_SO.shape[1]), dtype=np.float32)
    block_fits.choose_factors(
        value_SO, weight_SO, per_super, np.float32(ends[0]), np.float32(ends[1]), FACTOR_SHRINKS, factor_NO
    )
    return round_scale(factor_NO, "f16")


def fitted_scales(
    step_SO: Float32, weight_SO: Float32, per_super: int, ends: tuple[int, int], fit: Fit
) -> tuple[Float32, NDArray[np.int8]]:
    """Factors [N, O], storable as float16, and signed integers [S, O]: the best of the rounds per super-block."""
    d_NO = factors(step_SO, weight_SO, per_super, ends)
    best: dict[str, NDArray[Any]] = {"d": d_NO, "scales": np.zeros(step_SO.shape, dtype=np.int8)}
    best_loss_NO = np.full(d_NO.shape, kernels.BIG)
    for _ in range(ROUNDS):
        scales_SO = np.empty(step_SO.shape, dtype=np.int8)
        next_d_NO, loss_NO = np.empty_like(d_NO), np.empty_like(d_NO)
        fit(d_NO, scales_SO, next_d_NO, loss_NO)
        keep(best, best_loss_NO, loss_NO, {"d": d_NO, "scales": scales_SO})
        d_NO = round_scale(next_d_NO, "f16")
    return best["d"], best["scales"]


def keep(
    best: dict[str, NDArray[Any]], best_loss_NO: Float32, loss_NO: Float32, found: dict[str, NDArray[Any]]
) -> None:
    """Take over, super-block by super-block, what has the lower loss."""
    better_NO = loss_NO < best_loss_NO
    best_loss_NO[better_NO] = loss_NO[better_NO]
    for name, values in found.items():
        mask = np.repeat(better_NO, values.shape[0] // better_NO.shape[0], axis=0)
        best[name] = np.where(mask, values, best[name])
