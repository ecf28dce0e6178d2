"""The compiled searches of ggml's blocks: a real step for every sub-block, then small integers under a shared factor.

Importance is one weight per input, [I]. A candidate step is scored by what is left when the step is the best one
for its codes: Σ d·w² − (Σ d·w·q)² / Σ d·q², which needs no second pass. Codes are levels of a uniform grid (`low` …
`high` around zero) or of a codebook of whole numbers, given as a table: all midpoints between whole levels lie on its
edges, so that looking up is exact but for ties, and 7 times as fast as comparing with 15 midpoints.
Rows are independent; the loops release the interpreter's lock. Sums are float32 within a sub-block, float64 beyond.
Dimension key: O outputs · I inputs · N super-blocks · S sub-blocks · T table
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from bitwright.quantize.kernels import BIG, TINY

HALF_TABLE = 256  # a table of levels holds, for x = -128, -127.5 … 127.5, the level nearest to x + 1/4
PER_UNIT = 2


def level_table(levels_K: NDArray[np.float32]) -> NDArray[np.float32]:
    """The level nearest to every half step from -128 up."""
    centre_T = (np.arange(2 * HALF_TABLE) - HALF_TABLE + 0.5) / PER_UNIT
    table_T: NDArray[np.float32] = levels_K[np.abs(centre_T[:, None] - levels_K).argmin(axis=1)].astype(np.float32)
    return table_T


@numba.njit(inline="always", fastmath=True)
def uniform_sums(w, d, inverse, low, high):
    cross, square = np.float32(0), np.float32(0)
    for i in range(len(w)):
        q = min(max(np.rint(w[i] * inverse), low), high)
        part = d[i] * q
        cross += part * w[i]
        square += part * q
    return cross, square


@numba.njit(inline="always", fastmath=True)
def level_of(x, table_T):
    at = min(max(x * np.float32(PER_UNIT) + np.float32(HALF_TABLE), np.float32(0)), np.float32(2 * HALF_TABLE - 1))
    return table_T[np.uint32(np.int32(at))]


@numba.njit(inline="always", fastmath=True)
def level_sums(w, d, inverse, table_T):
    cross, square = np.float32(0), np.float32(0)
    for i in range(len(w)):
        q = level_of(w[i] * inverse, table_T)
        part = d[i] * q
        cross += part * w[i]
        square += part * q
    return cross, square


@numba.njit(inline="always", fastmath=True)
def largest_of(w):
    largest = np.float32(0)
    for i in range(len(w)):
        largest = max(largest, abs(w[i]))
    return largest


@numba.njit(cache=True, nogil=True, fastmath=True)
def search_uniform(weight_OI, importance_I, sub, low, high, signs, shrinks, step_OS, curvature_OS):
    rows, count = step_OS.shape
    for o in range(rows):
        for s in range(count):
            w = weight_OI[o, s * sub : s * sub + sub]
            d = importance_I[s * sub : s * sub + sub]
            largest = largest_of(w)
            step_OS[o, s] = curvature_OS[o, s] = 0
            if largest < TINY:
                continue
            best = np.float32(0)
            for sign in range(signs):
                full = -low / largest if sign == 0 else low / largest
                for c in range(len(shrinks)):
                    cross, square = uniform_sums(w, d, full / shrinks[c], low, high)
                    if square > 0 and cross * cross > best * square:
                        best = cross * cross / square
                        step_OS[o, s], curvature_OS[o, s] = cross / square, square
            if step_OS[o, s] != 0:  # the best step may move codes once more
                cross, square = uniform_sums(w, d, np.float32(1) / step_OS[o, s], low, high)
                if square > 0 and cross * cross > best * square:
                    step_OS[o, s], curvature_OS[o, s] = cross / square, square


@numba.njit(inline="always", fastmath=True)
def affine_sums(w, d, inverse, lowest, top):
    code, square, cross = np.float32(0), np.float32(0), np.float32(0)
    for i in range(len(w)):
        q = min(max(np.rint((w[i] - lowest) * inverse), np.float32(0)), top)
        part = d[i] * q
        code += part
        square += part * q
        cross += part * w[i]
    return code, square, cross


@numba.njit(inline="always", fastmath=True)
def affine_best(code, square, cross, mass, mean):
    """Least-squares step and minimum ≤ 0 for given codes, and how much of Σ d·w² they explain."""
    determinant = mass * square - code * code
    if determinant > TINY:
        minimum = (square * mean - code * cross) / determinant
        if minimum <= 0:
            step = (mass * cross - code * mean) / determinant
            return step, minimum, step * cross + minimum * mean
    step = cross / square if square > 0 else np.float32(0)
    return step, np.float32(0), step * cross


@numba.njit(cache=True, nogil=True, fastmath=True)
def search_affine(weight_OI, importance_I, sub, top, shrinks, rounds, step_OS, low_OS):
    """Steps and lows (minus the minimum, at least zero) for codes 0 … `top`."""
    rows, count = step_OS.shape
    for o in range(rows):
        for s in range(count):
            w = weight_OI[o, s * sub : s * sub + sub]
            d = importance_I[s * sub : s * sub + sub]
            lowest, highest = np.float32(0), np.float32(0)
            mass, mean = np.float32(0), np.float32(0)
            for i in range(sub):
                lowest, highest = min(lowest, w[i]), max(highest, w[i])
                mass += d[i]
                mean += d[i] * w[i]
            step_OS[o, s] = low_OS[o, s] = 0
            if highest - lowest < TINY:
                continue
            best = np.float32(0)
            for c in range(len(shrinks)):
                inverse = top / ((highest - lowest) * shrinks[c])
                code, square, cross = affine_sums(w, d, inverse, lowest, top)
                step, minimum, explained = affine_best(code, square, cross, mass, mean)
                if explained > best and step > 0:
                    best, step_OS[o, s], low_OS[o, s] = explained, step, -minimum
            for _ in range(rounds):  # the best pair may move codes once more
                if step_OS[o, s] <= 0:
                    break
                inverse = np.float32(1) / step_OS[o, s]
                code, square, cross = affine_sums(w, d, inverse, -low_OS[o, s], top)
                step, minimum, explained = affine_best(code, square, cross, mass, mean)
                if explained <= best or step <= 0:
                    break
                best, step_OS[o, s], low_OS[o, s] = explained, step, -minimum


@numba.njit(cache=True, nogil=True, fastmath=True)
def search_levels(weight_OI, importance_I, sub, table_T, lowest, shrinks, step_OS, curvature_OS):
    rows, count = step_OS.shape
    for o in range(rows):
        for s in range(count):
            w = weight_OI[o, s * sub : s * sub + sub]
            d = importance_I[s * sub : s * sub + sub]
            largest = largest_of(w)
            step_OS[o, s] = curvature_OS[o, s] = 0
            if largest < TINY:
                continue
            best = np.float32(0)
            for sign in range(2):
                full = -lowest / largest if sign == 0 else lowest / largest
                for c in range(len(shrinks)):
                    cross, square = level_sums(w, d, full / shrinks[c], table_T)
                    if square > 0 and cross * cross > best * square:
                        best = cross * cross / square
                        step_OS[o, s], curvature_OS[o, s] = cross / square, square
            if step_OS[o, s] != 0:
                cross, square = level_sums(w, d, np.float32(1) / step_OS[o, s], table_T)
                if square > 0 and cross * cross > best * square:
                    step_OS[o, s], curvature_OS[o, s] = cross / square, square


@numba.njit(cache=True, nogil=True, fastmath=True)
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


@numba.njit(cache=True, nogil=True, fastmath=True)
def choose_factors(value_OS, curvature_OS, per_super, low, high, shrinks, factor_ON):
    """The factor d of each super-block with the least Σ curvature · (value − d · integer)²; the largest value sets its
    sign so that it falls on the farther end of the integers, [low, high]."""
    rows, supers = factor_ON.shape
    for o in range(rows):
        for n in range(supers):
            values = value_OS[o, n * per_super : (n + 1) * per_super]
            curvature = curvature_OS[o, n * per_super : (n + 1) * per_super]
            extreme = np.float32(0)
            for s in range(per_super):
                if abs(values[s]) > abs(extreme):
                    extreme = values[s]
            full = extreme / (low if -low > high else high)
            factor_ON[o, n] = full
            if abs(extreme) < TINY:
                continue
            best = np.float32(0)
            for c in range(len(shrinks)):
                inverse = np.float32(1) / (full * shrinks[c])
                cross, square = uniform_sums(values, curvature, inverse, low, high)
                if square > 0 and cross * cross > best * square:
                    best = cross * cross / square
                    factor_ON[o, n] = cross / square


@numba.njit(cache=True, nogil=True, fastmath=True)
def fit_uniform(weight_OI, importance_I, sub, low, high, reach, ends, step_OS, d_ON, scales_OS, next_d_ON, loss_ON):
    rows, supers = d_ON.shape
    per_super = step_OS.shape[1] // supers
    for o in range(rows):
        for n in range(supers):
            d = d_ON[o, n]
            total, square_sum, cross_sum = np.float32(0), 0.0, 0.0
            for s in range(n * per_super, (n + 1) * per_super):
                w = weight_OI[o, s * sub : s * sub + sub]
                importance = importance_I[s * sub : s * sub + sub]
                near = int(np.rint(step_OS[o, s] / d)) if d != 0 else 0
                near = min(max(near, ends[0]), ends[1])
                best, best_scale, best_cross, best_square = BIG, 0, np.float32(0), np.float32(0)
                for scale in range(max(near - reach, ends[0]), min(near + reach, ends[1]) + 1):
                    step = d * np.float32(scale)
                    inverse = np.float32(1) / step if step != 0 else np.float32(0)
                    cross, square = uniform_sums(w, importance, inverse, low, high)
                    loss = step * (step * square - np.float32(2) * cross)  # without Σ d·w², the same for all
                    if loss < best:
                        best, best_scale, best_cross, best_square = loss, scale, cross, square
                scales_OS[o, s] = best_scale
                total += best
                square_sum += best_square * np.float32(best_scale) * np.float32(best_scale)
                cross_sum += best_cross * np.float32(best_scale)
            loss_ON[o, n] = total
            next_d_ON[o, n] = cross_sum / square_sum if square_sum > 0 and cross_sum * d > 0 else d


@numba.njit(cache=True, nogil=True, fastmath=True)
def fit_levels(weight_OI, importance_I, sub, table_T, reach, ends, step_OS, d_ON, scales_OS, next_d_ON, loss_ON):
    rows, supers = d_ON.shape
    per_super = step_OS.shape[1] // supers
    for o in range(rows):
        for n in range(supers):
            d = d_ON[o, n]
            total, square_sum, cross_sum = np.float32(0), 0.0, 0.0
            for s in range(n * per_super, (n + 1) * per_super):
                w = weight_OI[o, s * sub : s * sub + sub]
                importance = importance_I[s * sub : s * sub + sub]
                near = int(np.rint(step_OS[o, s] / d)) if d != 0 else 0
                near = min(max(near, ends[0]), ends[1])
                best, best_scale, best_cross, best_square = BIG, 0, np.float32(0), np.float32(0)
                for scale in range(max(near - reach, ends[0]), min(near + reach, ends[1]) + 1):
                    step = d * np.float32(scale)
                    inverse = np.float32(1) / step if step != 0 else np.float32(0)
                    cross, square = level_sums(w, importance, inverse, table_T)
                    loss = step * (step * square - np.float32(2) * cross)
                    if loss < best:
                        best, best_scale, best_cross, best_square = loss, scale, cross, square
                scales_OS[o, s] = best_scale
                total += best
                square_sum += best_square * np.float32(best_scale) * np.float32(best_scale)
                cross_sum += best_cross * np.float32(best_scale)
            loss_ON[o, n] = total
            next_d_ON[o, n] = cross_sum / square_sum if square_sum > 0 and cross_sum * d > 0 else d
