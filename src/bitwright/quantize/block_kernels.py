"""The compiled searches of ggml's blocks: a real step, or a step and a minimum, for every sub-block.

Importance is one weight per input, [I]. A candidate step is scored by what is left when the step is the best one
for its codes: Σ d·w² − (Σ d·w·q)² / Σ d·q², which needs no second pass. Codes are levels of a uniform grid (`low` …
`high` around zero) or of a codebook of whole numbers.
MXFP4, whose steps are powers of two, looks its few levels up in a table: all midpoints between whole levels lie on its
edges, so that looking up is exact but for ties.
Matrices come turned, [I, O], and steps go out turned, [S, O] (lane_sums.py). The loops release the interpreter's lock.

Not here: small integers under a shared factor (block_fits.py).
Dimension key: O outputs · I inputs · S sub-blocks · L lanes, rows side by side · T table
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from bitwright.quantize.compiled import loop
from bitwright.quantize.kernels import BIG, TINY
from bitwright.quantize.lane_sums import (
    ALL,
    CURVATURE,
    LANES,
    LOW,
    LOWEST,
    STEP,
    TRIED_LOW,
    affine_sums,
    find_ends,
    find_largest,
    find_mean,
    invert,
    keep_pairs,
    keep_steps,
    shrunk_inverses,
    signed_sums,
)

HALF_TABLE = 256  # a table of levels holds, for x = -128, -127.5 … 127.5, the level nearest to x + 1/4
PER_UNIT = 2


def level_table(levels_K: NDArray[np.float32]) -> NDArray[np.float32]:
    """The level nearest to every half step from -128 up."""
    centre_T = (np.arange(2 * HALF_TABLE) - HALF_TABLE + 0.5) / PER_UNIT
    table_T: NDArray[np.float32] = levels_K[np.abs(centre_T[:, None] - levels_K).argmin(axis=1)].astype(np.float32)
    return table_T


@loop(fastmath=True)
def search_signed(weight_IO, importance_I, sub, low, high, iq4, signs, shrinks, step_SO, curvature_SO):
    """Steps of either sign (of one with `signs` 1), and how fast the loss rises around them; 0 where all is zero."""
    count, rows = step_SO.shape
    r = np.empty(ALL, dtype=np.float32)
    for start in range(0, rows, LANES):
        for s in range(count):
            find_largest(weight_IO, s * sub, sub, start, r)
            for candidate in range(signs * len(shrinks) + 1):
                if candidate < signs * len(shrinks):
                    reach = -low if candidate < len(shrinks) else low
                    shrunk_inverses(reach, shrinks[candidate % len(shrinks)], r)
                else:
                    invert(STEP, r)  # the best step may move codes once more
                signed_sums(weight_IO, importance_I, s * sub, sub, start, low, high, iq4, r)
                keep_steps(r)
            step_SO[s, start : start + LANES] = r[STEP : STEP + LANES]
            curvature_SO[s, start : start + LANES] = r[CURVATURE : CURVATURE + LANES]


@loop(fastmath=True)
def search_affine(weight_IO, importance_I, sub, top, shrinks, rounds, step_SO, low_SO):
    """Steps and lows (minus the minimum, at least zero) for codes 0 … `top`."""
    count, rows = step_SO.shape
    r = np.empty(ALL, dtype=np.float32)
    for start in range(0, rows, LANES):
        for s in range(count):
            mass = find_mean(weight_IO, importance_I, s * sub, sub, start, r)
            find_ends(weight_IO, s * sub, sub, start, r)
            for candidate in range(len(shrinks) + rounds):
                if candidate < len(shrinks):
                    shrunk_inverses(top, shrinks[candidate], r)
                    for lane in range(LANES):
                        r[TRIED_LOW + lane] = -r[LOWEST + lane]
                else:  # the best pair may move codes once more
                    invert(STEP, r)
                    for lane in range(LANES):
                        r[TRIED_LOW + lane] = r[LOW + lane]
                affine_sums(weight_IO, importance_I, s * sub, sub, start, top, r)
                keep_pairs(mass, r)
            step_SO[s, start : start + LANES] = r[STEP : STEP + LANES]
            low_SO[s, start : start + LANES] = r[LOW : LOW + LANES]


@numba.njit(inline="always", fastmath=True)
def level_of(x, table_T):
    at = min(max(x * np.float32(PER_UNIT) + np.float32(HALF_TABLE), np.float32(0)), np.float32(2 * HALF_TABLE - 1))
    return table_T[np.uint32(np.int32(at))]


@numba.njit(inline="always", fastmath=True)
def largest_of(w):
    largest = np.float32(0)
    for i in range(len(w)):
        largest = max(largest, abs(w[i]))
    return largest


@loop(fastmath=True)
def search_powers(weight_OI, importance_I, sub, table_T, first, tries, exponent_OS):
    """Exponents e of steps 2^e: `tries` of them, the first being the largest magnitude's own plus `first`."""
    rows, count = exponent_OS.shape
    for o in range(rows):
        for s in range(count):
            w = weight_OI[o, s * sub : s * sub + sub]
            d = importance_I[s * sub : s * sub + sub]
            largest = largest_of(w)
            exponent_OS[o, s] = -128
            if largest < TINY:
                continue
            own = int(np.floor(np.log2(largest)))
            best = BIG
            for e in range(max(own + first, -127), max(own + first, -127) + tries):
                step = np.float32(2.0**e)
                inverse = np.float32(1) / step
                loss = np.float32(0)
                for i in range(len(w)):
                    error = w[i] - step * level_of(w[i] * inverse, table_T)
                    loss += d[i] * error * error
                if loss < best:
                    best = loss
                    exponent_OS[o, s] = e
