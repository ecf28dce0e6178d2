"""Sums over the inputs of a sub-block for many rows at once, and what searches and fits share besides.

Rows lie side by side: matrices come turned and filled up to whole `LANES` (`turned`), and the innermost loops run over
rows, not over the 16 or 32 inputs of a sub-block. Registers are full whatever the sub-block, nothing is summed across
a register, and every row is summed in one order: results depend neither on threads nor on slabs. Speed against the same
loops along the inputs: docs/log.md.

All values per lane stand in one array `r`, each at an offset fixed here: with arrays of their own the compiler cannot
rule out that they overlap, and gives up its vectors.
Numba caches a loop by the date of its own file alone: after a change here, touch block_kernels.py and block_fits.py.
Not here: the loops over candidates (block_kernels.py, block_fits.py).
Dimension key: O outputs · I inputs · r[AT + lane]
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from bitwright.quantize.compiled import loop
from bitwright.quantize.kernels import TINY
from bitwright.tensors.ggml_values import IQ4_LEVELS

LANES = 128  # the inputs of a sub-block of 32 and all sums fit the first cache
TILE = 8
IQ4_MIDPOINTS, IQ4_GAPS = (IQ4_LEVELS[1:] + IQ4_LEVELS[:-1]) / 2, np.diff(IQ4_LEVELS)
(
    INVERSE, TRIED, TRIED_LOW, SCALE, MIN,  # one candidate
    CODE, SQUARE, CROSS,  # Σ d·q, Σ d·q², Σ d·q·w of its codes
    MEAN, LOWEST, RANGE,  # Σ d·w; ends of the group
    BEST, STEP, LOW, CURVATURE,  # the best real step (and low, minus the minimum)
    D, DMIN, BEST_SCALE, BEST_MIN, BEST_CODE, BEST_SQUARE, BEST_CROSS, LOSS,  # the best integers under factors
) = (place * LANES for place in range(23))  # fmt: skip
ALL = 23 * LANES


def turned(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """The transpose of [O, I] in rows of its own, filled up with zeros to whole lanes: [I, padded O]."""
    rows, columns = matrix.shape
    out: NDArray[np.float32] = np.zeros((columns, -(-rows // LANES) * LANES), dtype=np.float32)
    turn(matrix, out)
    return out


def turned_back(values: NDArray[Any], rows: int) -> NDArray[Any]:
    """[rows, S] of [S, padded O]."""
    return np.ascontiguousarray(values[:, :rows].T)


@loop()
def turn(matrix, out):
    """Whole tiles first: their size is known to the compiler, which keeps them in registers."""
    rows, columns = matrix.shape
    whole_rows, whole_columns = rows - rows % TILE, columns - columns % TILE
    for top in range(0, whole_rows, TILE):
        for first in range(0, whole_columns, TILE):
            tile, turned_tile = (
                matrix[top : top + TILE, first : first + TILE],
                out[first : first + TILE, top : top + TILE],
            )
            for i in range(TILE):
                for o in range(TILE):
                    turned_tile[i, o] = tile[o, i]
    for o in range(rows):
        for i in range(whole_columns if o < whole_rows else 0, columns):
            out[i, o] = matrix[o, i]


@numba.njit(inline="always")
def nearest(x, low, high):
    return min(max(np.rint(x), low), high)


@numba.njit(nogil=True, fastmath=True)
def uniform_sums(weight_IO, importance_I, first, sub, start, low, high, r):
    """CROSS and SQUARE of inputs `first` … `first + sub` for the lanes from row `start` on."""
    for lane in range(LANES):
        r[CROSS + lane] = r[SQUARE + lane] = 0
    whole = first + sub - sub % 4
    for i in range(first, whole, 4):  # four inputs at once: a quarter of the traffic of sums
        w0, w1 = weight_IO[i, start : start + LANES], weight_IO[i + 1, start : start + LANES]
        w2, w3 = weight_IO[i + 2, start : start + LANES], weight_IO[i + 3, start : start + LANES]
        d0, d1, d2, d3 = importance_I[i], importance_I[i + 1], importance_I[i + 2], importance_I[i + 3]
        for lane in range(LANES):
            inverse = r[INVERSE + lane]
            q0, q1 = nearest(w0[lane] * inverse, low, high), nearest(w1[lane] * inverse, low, high)
            q2, q3 = nearest(w2[lane] * inverse, low, high), nearest(w3[lane] * inverse, low, high)
            p0, p1, p2, p3 = d0 * q0, d1 * q1, d2 * q2, d3 * q3
            r[CROSS + lane] += p0 * w0[lane] + p1 * w1[lane] + p2 * w2[lane] + p3 * w3[lane]
            r[SQUARE + lane] += p0 * q0 + p1 * q1 + p2 * q2 + p3 * q3
    for i in range(whole, first + sub):
        w, d = weight_IO[i, start : start + LANES], importance_I[i]
        for lane in range(LANES):
            q = nearest(w[lane] * r[INVERSE + lane], low, high)
            r[CROSS + lane] += d * q * w[lane]
            r[SQUARE + lane] += d * q * q


@numba.njit(inline="always", fastmath=True)
def iq4_level(x):
    """The nearest level of IQ4: each midpoint that x reaches adds the gap between its neighbours.

    The compiler knows how many there are and unrolls them into compares in registers: half the time of a table.
    """
    level = IQ4_LEVELS[0]
    for m in range(IQ4_MIDPOINTS.size):
        level += IQ4_GAPS[m] if x >= IQ4_MIDPOINTS[m] else np.float32(0)
    return level


@numba.njit(nogil=True, fastmath=True)
def iq4_sums(weight_IO, importance_I, first, sub, start, r):
    """The same for the levels of IQ4."""
    for lane in range(LANES):
        r[CROSS + lane] = r[SQUARE + lane] = 0
    for i in range(first, first + sub):
        w, d = weight_IO[i, start : start + LANES], importance_I[i]
        for lane in range(LANES):
            q = iq4_level(w[lane] * r[INVERSE + lane])
            r[CROSS + lane] += d * q * w[lane]
            r[SQUARE + lane] += d * q * q


@numba.njit(nogil=True, fastmath=True)
def signed_sums(weight_IO, importance_I, first, sub, start, low, high, iq4, r):
    """The one or the other: of whole numbers `low` … `high`, or of the levels of IQ4."""
    if iq4:
        iq4_sums(weight_IO, importance_I, first, sub, start, r)
    else:
        uniform_sums(weight_IO, importance_I, first, sub, start, low, high, r)


@numba.njit(nogil=True, fastmath=True)
def affine_sums(weight_IO, importance_I, first, sub, start, top, r):
    """CODE, SQUARE and CROSS of the codes under INVERSE and TRIED_LOW; `sub` is a multiple of 4."""
    for lane in range(LANES):
        r[CODE + lane] = r[SQUARE + lane] = r[CROSS + lane] = 0
    zero = np.float32(0)
    for i in range(first, first + sub, 4):
        w0, w1 = weight_IO[i, start : start + LANES], weight_IO[i + 1, start : start + LANES]
        w2, w3 = weight_IO[i + 2, start : start + LANES], weight_IO[i + 3, start : start + LANES]
        d0, d1, d2, d3 = importance_I[i], importance_I[i + 1], importance_I[i + 2], importance_I[i + 3]
        for lane in range(LANES):
            inverse, low = r[INVERSE + lane], r[TRIED_LOW + lane]
            q0, q1 = nearest((w0[lane] + low) * inverse, zero, top), nearest((w1[lane] + low) * inverse, zero, top)
            q2, q3 = nearest((w2[lane] + low) * inverse, zero, top), nearest((w3[lane] + low) * inverse, zero, top)
            p0, p1, p2, p3 = d0 * q0, d1 * q1, d2 * q2, d3 * q3
            r[CODE + lane] += p0 + p1 + p2 + p3
            r[SQUARE + lane] += p0 * q0 + p1 * q1 + p2 * q2 + p3 * q3
            r[CROSS + lane] += p0 * w0[lane] + p1 * w1[lane] + p2 * w2[lane] + p3 * w3[lane]


@numba.njit(nogil=True, fastmath=True)
def find_largest(weight_IO, first, sub, start, r):
    """RANGE: the largest magnitude. Clears what is the best so far."""
    for lane in range(LANES):
        r[RANGE + lane] = r[BEST + lane] = r[STEP + lane] = r[CURVATURE + lane] = 0
    for i in range(first, first + sub):
        w = weight_IO[i, start : start + LANES]
        for lane in range(LANES):
            r[RANGE + lane] = max(r[RANGE + lane], abs(w[lane]))


@numba.njit(nogil=True, fastmath=True)
def find_mean(weight_IO, importance_I, first, sub, start, r):
    """MEAN; returns Σ d."""
    mass = np.float32(0)
    for lane in range(LANES):
        r[MEAN + lane] = 0
    for i in range(first, first + sub):
        w, d = weight_IO[i, start : start + LANES], importance_I[i]
        mass += d
        for lane in range(LANES):
            r[MEAN + lane] += d * w[lane]
    return mass


@numba.njit(nogil=True, fastmath=True)
def find_ends(weight_IO, first, sub, start, r):
    """LOWEST, at most zero, and RANGE with zero in it. Clears what is the best so far."""
    for lane in range(LANES):
        r[LOWEST + lane] = r[RANGE + lane] = r[BEST + lane] = r[STEP + lane] = r[LOW + lane] = 0
    for i in range(first, first + sub):
        w = weight_IO[i, start : start + LANES]
        for lane in range(LANES):
            r[LOWEST + lane] = min(r[LOWEST + lane], w[lane])
            r[RANGE + lane] = max(r[RANGE + lane], w[lane])
    for lane in range(LANES):
        r[RANGE + lane] -= r[LOWEST + lane]


@numba.njit(nogil=True, fastmath=True)
def shrunk_inverses(reach, shrink, r):
    """INVERSE of the step that maps RANGE to `reach`, times `shrink`."""
    for lane in range(LANES):
        span = r[RANGE + lane]
        safe = span if span >= TINY else np.float32(1)
        r[INVERSE + lane] = reach / (safe * shrink) if span >= TINY else np.float32(0)


@numba.njit(nogil=True, fastmath=True)
def invert(at, r):
    """INVERSE of the steps at `at`."""
    for lane in range(LANES):
        step = r[at + lane]
        safe = step if step != 0 else np.float32(1)
        r[INVERSE + lane] = np.float32(1) / safe if step != 0 else np.float32(0)


@numba.njit(nogil=True, fastmath=True)
def keep_steps(r):
    """Take over, lane by lane, the least-squares steps that explain more."""
    for lane in range(LANES):
        square, cross = r[SQUARE + lane], r[CROSS + lane]
        step = cross / (square if square > 0 else np.float32(1))
        better = step * cross > r[BEST + lane]
        r[BEST + lane] = step * cross if better else r[BEST + lane]
        r[STEP + lane] = step if better else r[STEP + lane]
        r[CURVATURE + lane] = square if better else r[CURVATURE + lane]


@numba.njit(nogil=True, fastmath=True)
def keep_pairs(mass, r):
    """Take over the least-squares pairs (step, low ≥ 0) of these codes where they explain more of Σ d·w²."""
    for lane in range(LANES):
        code, square, cross, mean = r[CODE + lane], r[SQUARE + lane], r[CROSS + lane], r[MEAN + lane]
        determinant = mass * square - code * code
        inverse = np.float32(1) / (determinant if determinant > TINY else np.float32(1))
        both_low = (code * cross - square * mean) * inverse
        both_step = (mass * cross - code * mean) * inverse
        alone = cross / (square if square > 0 else np.float32(1))
        free = determinant > TINY and both_low >= 0
        step, low = (both_step if free else alone), (both_low if free else np.float32(0))
        explained = step * cross - low * mean
        better = explained > r[BEST + lane] and step > 0
        r[BEST + lane] = explained if better else r[BEST + lane]
        r[STEP + lane] = step if better else r[STEP + lane]
        r[LOW + lane] = low if better else r[LOW + lane]
