"""GPTQ: round one column at a time, and let the columns not yet rounded absorb the error.

The grid (scales, minimums, zero points) is fixed beforehand, so the same loop serves integer groups and the k-quants
of GGUF, whose files stay plain. Order of columns: by falling diagonal of the Gram matrix, with groups where they were
("static" act-order), so that no permutation has to be stored.

Why this form: with H = M Mᵀ for an upper triangular M, U = M⁻¹ is the upper Cholesky factor of H⁻¹, and its rows hold
every later update (Frantar et al. 2022, arXiv:2210.17323, step 3). One Cholesky and one triangular inverse, both in
float64, and nothing is inverted inside the loop. Columns go in blocks: inside a block rows are updated by a compiled
loop, behind it by one matrix product (lazy updates). tests/quantize holds the naive oracle that inverts afresh.

Not here: the same on a graphics processor (device_gptq.py), scale search (integer.py, kquants.py), the choice of
method and its fallbacks (solve.py).
Dimension key: O outputs · I inputs · G groups along I · B columns of one block
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import lapack

from bitwright.quantize import device_gptq, kernels, level_kernels
from bitwright.quantize.grid import Grid, grid_values
from bitwright.tensors.devices import CPU
from bitwright.tensors.qtensor import Array, Float32

BLOCK = 128  # columns per lazy update: the compiled loop stays in the second-level cache
DAMPING_LADDER = (0.01, 0.03, 0.1, 0.3, 1.0)  # of the mean diagonal; docs/log.md 2026-11-21, 0.2 to 1 % measured best


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The factor U of one Gram matrix, made once and used for every linear that reads the same input."""

    upper_II: NDArray[np.floating]  # in the permuted order
    order_I: NDArray[np.int64]
    damping: float
    notes: tuple[str, ...]


def factorize(
    gram_II: Float32,
    *,
    act_order: bool = True,
    damping: tuple[float, ...] = DAMPING_LADDER,
    dtype: type[np.floating] = np.float64,
    device: torch.device = CPU,
) -> Feedback | None:
    """U with H⁻¹ = Uᵀ U for the damped Gram matrix. `None` when no rung of the ladder makes it positive definite.

    All is done in float64, in one array; `dtype` is what U is kept in. On a `device` that has float64 it is done there.
    """
    diagonal_I = np.diag(gram_II).astype(np.float64)
    order_I = np.argsort(-diagonal_I, kind="stable") if act_order else np.arange(len(diagonal_I))
    mean = float(diagonal_I.mean())
    if not np.isfinite(mean) or mean <= 0:
        return None
    notes: list[str] = []
    for share in damping:
        if device.type == "cuda":
            upper_II, why = device_gptq.inverse_factor(gram_II, order_I, share * mean, device)
        else:
            upper_II, why = _inverse_factor(gram_II, order_I, share * mean, dtype)
        if upper_II is not None:
            return Feedback(upper_II=upper_II, order_I=order_I, damping=share, notes=tuple(notes))
        notes.append(f"{why} with damping {share:g}")
    return None


def _inverse_factor(
    gram_II: Float32, order_I: NDArray[np.int64], added: float, dtype: type[np.floating]
) -> tuple[NDArray[np.floating] | None, str]:
    """U of the Gram matrix in the order given, `added` to its diagonal; or why there is none."""
    # reversed twice: LAPACK's lower factor of the reversed matrix is the upper factor of the matrix
    damped_II = _permuted(gram_II, order_I[::-1])
    damped_II[np.diag_indices_from(damped_II)] += added
    # the transpose of a symmetric matrix is itself, in the order that LAPACK works on in place
    lower_II, failed = lapack.dpotrf(damped_II.T, lower=1, clean=1, overwrite_a=1)
    if failed:
        return None, "not positive definite"
    inverse_II, failed = lapack.dtrtri(lower_II, lower=1, overwrite_c=1)
    if failed:
        return None, "singular factor"
    upper_II = np.empty(inverse_II.shape, dtype=dtype)
    upper_II[...] = inverse_II[::-1, ::-1]
    return upper_II, ""


def _permuted(gram_II: Float32, order_I: NDArray[np.int64]) -> NDArray[np.float64]:
    """Rows and columns in another order, in float64."""
    result_II = np.empty(gram_II.shape)
    for start in range(0, len(order_I), BLOCK):
        result_II[start : start + BLOCK] = gram_II[np.ix_(order_I[start : start + BLOCK], order_I)]
    return result_II


def gptq_codes(
    weight_OI: NDArray[np.floating],
    grid: Grid,
    feedback: Feedback,
    *,
    block: int = BLOCK,
    dtype: type[np.floating] = np.float32,
) -> NDArray[np.int16]:
    """Codes [O, I] on the grid, chosen with error feedback. `dtype` is the precision of the running weights."""
    order_I = feedback.order_I
    upper_II = feedback.upper_II.astype(dtype, copy=False)
    running_OI = np.ascontiguousarray(weight_OI[:, order_I], dtype=dtype)
    group_I = order_I // grid.group_size
    round_block = _block_rounding(grid, dtype)
    rows, columns = running_OI.shape
    codes_OI: NDArray[np.int16] = np.empty((rows, columns), dtype=np.int16)
    for start in range(0, columns, block):
        stop = min(start + block, columns)
        error_OB = np.empty((rows, stop - start), dtype=dtype)
        part_OB = np.ascontiguousarray(running_OI[:, start:stop])
        part_codes_OB = np.empty(part_OB.shape, dtype=np.int16)
        upper_BB = np.ascontiguousarray(upper_II[start:stop, start:stop])
        round_block(part_OB, upper_BB, group_I[start:stop], part_codes_OB, error_OB)
        codes_OI[:, start:stop] = part_codes_OB
        if stop < columns:
            running_OI[:, stop:] -= error_OB @ upper_II[start:stop, stop:]
    result_OI = np.empty_like(codes_OI)
    result_OI[:, order_I] = codes_OI
    return result_OI


def _block_rounding(grid: Grid, dtype: type[np.floating]) -> Callable[..., None]:
    """The compiled loop for this grid: (columns, factor, group of each column, codes out, errors out)."""
    step_OG = grid.step_OG.astype(dtype)
    if grid.levels_K is not None:
        levels_K = grid.levels_K.astype(dtype)
        middles_M = level_kernels.midpoints(levels_K)

        def of_levels(part_OB: Array, upper_BB: Array, group_B: Array, codes_OB: Array, error_OB: Array) -> None:
            level_kernels.round_block(part_OB, upper_BB, group_B, step_OG, levels_K, middles_M, codes_OB, error_OB)

        return of_levels
    zero_OG, offset_OG = grid.zero_OG.astype(dtype), grid.offset_OG.astype(dtype)
    low, high = dtype(grid.low), dtype(grid.high)

    def uniform(part_OB: Array, upper_BB: Array, group_B: Array, codes_OB: Array, error_OB: Array) -> None:
        kernels.round_block(part_OB, upper_BB, group_B, step_OG, zero_OG, offset_OG, low, high, codes_OB, error_OB)

    return uniform


def gptq_codes_reference(weight_OI: NDArray[np.floating], grid: Grid, feedback: Feedback) -> NDArray[np.int16]:
    """The same codes by the plain loop over columns, in float64. Slow; the fast version is held against it."""
    running_OI = weight_OI[:, feedback.order_I].astype(np.float64)
    upper_II = feedback.upper_II
    codes_OI: NDArray[np.int16] = np.empty(running_OI.shape, dtype=np.int16)
    for position, column in enumerate(feedback.order_I):
        codes_OI[:, column], value_O = _nearest(running_OI[:, position], grid, column // grid.group_size)
        error_O = (running_OI[:, position] - value_O) / upper_II[position, position]
        running_OI[:, position + 1 :] -= np.outer(error_O, upper_II[position, position + 1 :])
    return codes_OI


def _nearest(wanted_O: NDArray[np.float64], grid: Grid, g: int) -> tuple[NDArray[np.int16], NDArray[np.float64]]:
    """Codes and values nearest to one column of group `g`, in float64."""
    step_O, zero_O, offset_O = (
        field[:, g].astype(np.float64) for field in (grid.step_OG, grid.zero_OG, grid.offset_OG)
    )
    scaled_O = np.divide(wanted_O - offset_O, step_O, out=np.zeros_like(step_O), where=step_O != 0)
    if grid.levels_K is not None:
        levels_K = grid.levels_K.astype(np.float64)
        index_O = np.abs(scaled_O[:, None] - levels_K).argmin(axis=1)
        return index_O.astype(np.int16), step_O * levels_K[index_O]
    code_O = np.clip(np.rint(scaled_O + zero_O), grid.low, grid.high)
    return code_O.astype(np.int16), step_O * (code_O - zero_O) + offset_O


def refine_codes(
    weight_OI: Float32, codes_OI: NDArray[np.int16], grid: Grid, gram_II: Float32, *, sweeps: int = 2
) -> tuple[NDArray[np.int16], NDArray[np.floating]]:
    """Coordinate descent on tr(E G Eᵀ) over single codes, E = weight − value; the loss never rises.

    A code moves when the quadratic has its minimum nearer to another level. `codes_OI` is not changed. Returns the new
    codes and E G of them, [O, I], which the loop keeps up to date.
    """
    error_OI = weight_OI - grid_values(codes_OI, grid)
    pull_OI = error_OI @ gram_II
    result_OI = codes_OI.copy()
    if grid.levels_K is not None:
        middles_M = level_kernels.midpoints(grid.levels_K)
        level_kernels.descend(
            result_OI, pull_OI, gram_II, grid.step_OG, grid.group_size, grid.levels_K, middles_M, sweeps
        )
        return result_OI, pull_OI
    kernels.descend(
        result_OI, pull_OI, gram_II, grid.step_OG, grid.group_size, np.float32(grid.low), np.float32(grid.high), sweeps
    )
    return result_OI, pull_OI
