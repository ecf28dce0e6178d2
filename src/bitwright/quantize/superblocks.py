"""What the searches of all super-blocks share: factors for real steps, and the rounds that fit integers under them.

Not here: what a step is (kquants.py, level_blocks.py).
Dimension key: O outputs · N super-blocks per row · S sub-blocks per row
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bitwright.quantize import block_kernels, kernels
from bitwright.quantize.integer import round_scale
from bitwright.tensors.qtensor import Array, Float32

SUPER = 256
ROUNDS = 2  # of integers, then least-squares factors; a third lowers the error by under 0.1 %
FACTOR_SHRINKS = np.linspace(0.8, 1.25, 9, dtype=np.float32)  # of the factor that the largest step asks for


class Fit(Protocol):
    """Integers near the real steps under given factors: fills integers, better factors, and the loss of these."""

    def __call__(self, d_ON: Float32, scales_OS: Array, next_d_ON: Float32, loss_ON: Float32) -> None: ...


def factors(value_OS: Float32, weight_OS: Float32, per_super: int, ends: tuple[int, int]) -> Float32:
    """One factor per super-block, [O, N], whose multiples by integers in `ends` come nearest to the values."""
    factor_ON = np.empty((value_OS.shape[0], value_OS.shape[1] // per_super), dtype=np.float32)
    block_kernels.choose_factors(
        value_OS, weight_OS, per_super, np.float32(ends[0]), np.float32(ends[1]), FACTOR_SHRINKS, factor_ON
    )
    return round_scale(factor_ON, "f16")


def fitted_scales(
    step_OS: Float32, weight_OS: Float32, per_super: int, ends: tuple[int, int], fit: Fit
) -> tuple[Float32, NDArray[np.int8]]:
    """Factors [O, N], storable as float16, and signed integers [O, S]: the best of the rounds per super-block."""
    d_ON = factors(step_OS, weight_OS, per_super, ends)
    best: dict[str, NDArray[Any]] = {"d": d_ON, "scales": np.zeros(step_OS.shape, dtype=np.int8)}
    best_loss_ON = np.full(d_ON.shape, kernels.BIG)
    for _ in range(ROUNDS):
        scales_OS = np.empty(step_OS.shape, dtype=np.int8)
        next_d_ON, loss_ON = np.empty_like(d_ON), np.empty_like(d_ON)
        fit(d_ON, scales_OS, next_d_ON, loss_ON)
        keep(best, best_loss_ON, loss_ON, {"d": d_ON, "scales": scales_OS})
        d_ON = round_scale(next_d_ON, "f16")
    return best["d"], best["scales"]


def keep(
    best: dict[str, NDArray[Any]], best_loss_ON: Float32, loss_ON: Float32, found: dict[str, NDArray[Any]]
) -> None:
    """Take over, super-block by super-block, what has the lower loss."""
    better_ON = loss_ON < best_loss_ON
    best_loss_ON[better_ON] = loss_ON[better_ON]
    for name, values in found.items():
        mask = np.repeat(better_ON, values.shape[1] // better_ON.shape[1], axis=1)
        best[name] = np.where(mask, values, best[name])
