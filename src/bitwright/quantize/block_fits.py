"""The compiled fits of ggml's super-blocks: a factor for real values, and the small integers under it.

Integers beside the nearest ones are tried too; those with the least Σ d · error² after rounding the codes are kept, and
with them the factor that least squares asks for. Sums are float32 within a sub-block, float64 beyond.
Matrices and results are turned: [I, O], [S, O], [N, O] (lane_sums.py). The loops release the interpreter's lock.

Not here: the real values (block_kernels.py), the rounds (superblocks.py, kquants.py).
Dimension key: O outputs · I inputs · N super-blocks · S sub-blocks · L lanes, rows side by side · T table
"""

from __future__ import annotations

import numba
import numpy as np

from bitwright.quantize.compiled import loop
from bitwright.quantize.kernels import BIG, TINY
from bitwright.quantize.lane_sums import (
    ALL,
    BEST_CODE,
    BEST_CROSS,
    BEST_MIN,
    BEST_SCALE,
    BEST_SQUARE,
    CODE,
    CROSS,
    DMIN,
    INVERSE,
    LANES,
    LOSS,
    LOW,
    MEAN,
    MIN,
    RANGE,
    SCALE,
    SQUARE,
    STEP,
    TRIED,
    TRIED_LOW,
    D,
    affine_sums,
    find_mean,
    invert,
    nearest,
    signed_sums,
)

# float64 sums per lane: of the squares and products of factors, and for pairs the normal equations of (d, dmin)
AA, AB, BB, AW, BW = (place * LANES for place in range(5))
ALL_SUMS = 5 * LANES


@loop(fastmath=True)
def choose_factors(value_SO, curvature_SO, per_super, low, high, shrinks, factor_NO):
    """The factor d of each super-block with the least Σ curvature · (value − d · integer)²; the largest value sets its
    sign so that it falls on the farther end of the integers, [low, high]."""
    supers, rows = factor_NO.shape
    end = low if -low > high else high
    r = np.empty(ALL, dtype=np.float32)
    for start in range(0, rows, LANES):
        for n in range(supers):
            for lane in range(LANES):
                r[RANGE + lane] = r[LOSS + lane] = 0
            for s in range(n * per_super, (n + 1) * per_super):
                value = value_SO[s, start : start + LANES]
                for lane in range(LANES):
                    r[RANGE + lane] = value[lane] if abs(value[lane]) > abs(r[RANGE + lane]) else r[RANGE + lane]
            for lane in range(LANES):
                r[D + lane] = r[RANGE + lane] / end if abs(r[RANGE + lane]) >= TINY else np.float32(0)
                r[RANGE + lane] = r[D + lane]
            for c in range(len(shrinks)):
                for lane in range(LANES):
                    r[TRIED + lane] = r[RANGE + lane] * shrinks[c]
                invert(TRIED, r)
                factor_sums(value_SO, curvature_SO, n * per_super, per_super, start, low, high, r)
                for lane in range(LANES):
                    cross, square = r[CROSS + lane], r[SQUARE + lane]
                    factor = cross / (square if square > 0 else np.float32(1))
                    better = factor * cross > r[LOSS + lane]
                    r[LOSS + lane] = factor * cross if better else r[LOSS + lane]
                    r[D + lane] = factor if better else r[D + lane]
            factor_NO[n, start : start + LANES] = r[D : D + LANES]


@numba.njit(nogil=True, fastmath=True)
def factor_sums(value_SO, curvature_SO, first, count, start, low, high, r):
    """CROSS and SQUARE of values, each with a weight of its own, as integers times 1 / INVERSE."""
    for lane in range(LANES):
        r[CROSS + lane] = r[SQUARE + lane] = 0
    for s in range(first, first + count):
        value, curvature = value_SO[s, start : start + LANES], curvature_SO[s, start : start + LANES]
        for lane in range(LANES):
            q = nearest(value[lane] * r[INVERSE + lane], low, high)
            r[CROSS + lane] += curvature[lane] * q * value[lane]
            r[SQUARE + lane] += curvature[lane] * q * q


@numba.njit(nogil=True, fastmath=True)
def near_integers(value, factor, offset, low, high, integer, real, r):
    """At `integer` the integers `offset` beside the nearest multiples of the factors, at `real` what they stand for."""
    for lane in range(LANES):
        d = r[factor + lane]
        inverse = np.float32(1) / (d if d != 0 else np.float32(1))
        near = nearest(r[value + lane] * inverse, low, high) if d != 0 else min(max(np.float32(0), low), high)
        r[integer + lane] = min(max(near + np.float32(offset), low), high)
        r[real + lane] = r[integer + lane] * d


@numba.njit(nogil=True, fastmath=True)
def keep_scales(r):
    """Take over the scales whose loss, without Σ d·w², is lower."""
    for lane in range(LANES):
        square, cross, step = r[SQUARE + lane], r[CROSS + lane], r[TRIED + lane]
        loss = step * (step * square - np.float32(2) * cross)
        better = loss < r[LOSS + lane]
        r[LOSS + lane] = loss if better else r[LOSS + lane]
        r[BEST_CROSS + lane] = cross if better else r[BEST_CROSS + lane]
        r[BEST_SQUARE + lane] = square if better else r[BEST_SQUARE + lane]
        r[BEST_SCALE + lane] = r[SCALE + lane] if better else r[BEST_SCALE + lane]


@numba.njit(nogil=True, fastmath=True)
def add_scales(r, sums):
    for lane in range(LANES):
        scale = np.float64(r[BEST_SCALE + lane])
        sums[AA + lane] += scale * scale * np.float64(r[BEST_SQUARE + lane])
        sums[AW + lane] += scale * np.float64(r[BEST_CROSS + lane])


@numba.njit(nogil=True, fastmath=True)
def fitted_factors(r, sums, next_d):
    for lane in range(LANES):
        aa, aw, d = sums[AA + lane], sums[AW + lane], r[D + lane]
        next_d[lane] = aw / aa if aa > 0 and aw * d > 0 else d


@loop(fastmath=True)
def fit_signed(weight_IO, importance_I, sub, low, high, iq4, reach, ends, step_SO, d_NO, scales_SO, next_d_NO):
    """Integers near the real steps, and the factors that fit them best."""
    supers, rows = d_NO.shape
    per_super = step_SO.shape[0] // supers
    least, most = np.float32(ends[0]), np.float32(ends[1])
    r, sums = np.empty(ALL, dtype=np.float32), np.empty(ALL_SUMS, dtype=np.float64)
    for start in range(0, rows, LANES):
        for n in range(supers):
            r[D : D + LANES] = d_NO[n, start : start + LANES]
            sums[:] = 0
            for s in range(n * per_super, (n + 1) * per_super):
                r[STEP : STEP + LANES] = step_SO[s, start : start + LANES]
                r[LOSS : LOSS + LANES] = BIG
                for offset in range(-reach, reach + 1):
                    near_integers(STEP, D, offset, least, most, SCALE, TRIED, r)
                    invert(TRIED, r)
                    signed_sums(weight_IO, importance_I, s * sub, sub, start, low, high, iq4, r)
                    keep_scales(r)
                add_scales(r, sums)
                scales_SO[s, start : start + LANES] = r[BEST_SCALE : BEST_SCALE + LANES]
            fitted_factors(r, sums, next_d_NO[n, start : start + LANES])


@numba.njit(nogil=True, fastmath=True)
def keep_integers(mass, r):
    """Take over the pairs of integers with a lower loss (without Σ d·w²)."""
    two = np.float32(2)
    for lane in range(LANES):
        code, square, cross, mean = r[CODE + lane], r[SQUARE + lane], r[CROSS + lane], r[MEAN + lane]
        step, low = r[TRIED + lane], r[TRIED_LOW + lane]
        loss = step * (step * square - two * cross - two * low * code) + low * (low * mass + two * mean)
        better = loss < r[LOSS + lane]
        r[LOSS + lane] = loss if better else r[LOSS + lane]
        r[BEST_CODE + lane] = code if better else r[BEST_CODE + lane]
        r[BEST_SQUARE + lane] = square if better else r[BEST_SQUARE + lane]
        r[BEST_CROSS + lane] = cross if better else r[BEST_CROSS + lane]
        r[BEST_SCALE + lane] = r[SCALE + lane] if better else r[BEST_SCALE + lane]
        r[BEST_MIN + lane] = r[MIN + lane] if better else r[BEST_MIN + lane]


@numba.njit(nogil=True, fastmath=True)
def add_pairs(mass, r, sums):
    """Add a sub-block to the normal equations of (d, dmin) for a = scale · q, b = -minimum."""
    for lane in range(LANES):
        scale, minimum = np.float64(r[BEST_SCALE + lane]), np.float64(r[BEST_MIN + lane])
        sums[AA + lane] += scale * scale * np.float64(r[BEST_SQUARE + lane])
        sums[AB + lane] -= scale * minimum * np.float64(r[BEST_CODE + lane])
        sums[BB + lane] += minimum * minimum * np.float64(mass)
        sums[AW + lane] += scale * np.float64(r[BEST_CROSS + lane])
        sums[BW + lane] -= minimum * np.float64(r[MEAN + lane])


@numba.njit(nogil=True, fastmath=True)
def solved_pairs(r, sums, next_d, next_dmin):
    for lane in range(LANES):
        aa, ab, bb, aw, bw = sums[AA + lane], sums[AB + lane], sums[BB + lane], sums[AW + lane], sums[BW + lane]
        determinant = aa * bb - ab * ab
        next_d[lane], next_dmin[lane] = r[D + lane], r[DMIN + lane]
        if determinant > 1e-12 * aa * bb and aa > 0 and bb > 0:
            solved_d = (aw * bb - bw * ab) / determinant
            solved_dmin = (bw * aa - aw * ab) / determinant
            if solved_d > 0 and solved_dmin >= 0:
                next_d[lane], next_dmin[lane] = solved_d, solved_dmin
        elif aa > 0 and aw > 0:
            next_d[lane] = aw / aa


@loop(fastmath=True)
def fit_affine(
    weight_IO, importance_I, sub, high, most, reach,
    step_SO, low_SO, d_NO, dmin_NO, scales_SO, mins_SO, next_d_NO, next_dmin_NO,
):  # fmt: skip
    """Pairs of integers, each at most `reach` beside the nearest, and the factors that fit them best."""
    supers, rows = d_NO.shape
    per_super, top, least, last = step_SO.shape[0] // supers, np.float32(high), np.float32(0), np.float32(most)
    r, sums = np.empty(ALL, dtype=np.float32), np.empty(ALL_SUMS, dtype=np.float64)
    for start in range(0, rows, LANES):
        for n in range(supers):
            r[D : D + LANES] = d_NO[n, start : start + LANES]
            r[DMIN : DMIN + LANES] = dmin_NO[n, start : start + LANES]
            sums[:] = 0
            for s in range(n * per_super, (n + 1) * per_super):
                mass = find_mean(weight_IO, importance_I, s * sub, sub, start, r)
                r[STEP : STEP + LANES] = step_SO[s, start : start + LANES]
                r[LOW : LOW + LANES] = low_SO[s, start : start + LANES]
                r[LOSS : LOSS + LANES] = BIG
                for offset in range(-reach, reach + 1):
                    near_integers(STEP, D, offset, least, last, SCALE, TRIED, r)
                    invert(TRIED, r)
                    for beside in range(-reach, reach + 1):
                        near_integers(LOW, DMIN, beside, least, last, MIN, TRIED_LOW, r)
                        affine_sums(weight_IO, importance_I, s * sub, sub, start, top, r)
                        keep_integers(mass, r)
                add_pairs(mass, r, sums)
                scales_SO[s, start : start + LANES] = r[BEST_SCALE : BEST_SCALE + LANES]
                mins_SO[s, start : start + LANES] = r[BEST_MIN : BEST_MIN + LANES]
            solved_pairs(r, sums, next_d_NO[n, start : start + LANES], next_dmin_NO[n, start : start + LANES])
