"""The compiled loops for grids whose levels are not evenly spaced: codebooks of ggml, floats of few bits.

Twins of the loops in kernels.py, apart so that even grids keep their speed: here the nearest level is found by counting
the midpoints below a value, there by rounding. Counting beat bisection 5 to 1 in `round_nearest` at 16 levels: compares
run side by side in one register, and no branch is guessed. `midpoint_M` holds the middles between neighbouring levels,
filled up with BIG to whole registers.
Dimension key: O outputs · I inputs · G groups along I · K levels · M midpoints · B columns of one block
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from bitwright.quantize.compiled import loop
from bitwright.quantize.kernels import BIG

LANES = 8  # float32 values in a register of AVX2


def midpoints(levels_K: NDArray[np.floating]) -> NDArray[np.floating]:
    """Middles between ascending levels, filled up with values that nothing exceeds."""
    filled = np.full(-(-(len(levels_K) - 1) // LANES) * LANES, BIG, dtype=levels_K.dtype)
    filled[: len(levels_K) - 1] = (levels_K[1:] + levels_K[:-1]) / 2
    return filled


@numba.njit(inline="always")
def nearest_level(value, midpoint_M):
    at = np.int32(0)
    for m in range(len(midpoint_M)):
        at += np.int32(value > midpoint_M[m])
    return at


@loop()
def round_nearest(weight_OI, step_OG, group, midpoint_M, codes_OI):
    rows, columns = weight_OI.shape
    for o in range(rows):
        for g in range(columns // group):
            step = step_OG[o, g]
            for i in range(g * group, (g + 1) * group):
                codes_OI[o, i] = nearest_level(weight_OI[o, i] / step if step != 0 else step, midpoint_M)


@loop(fastmath={"contract"})
def round_block(part_OB, upper_BB, group_B, step_OG, levels_K, midpoint_M, codes_OB, error_OB):
    rows, columns = part_OB.shape
    for o in range(rows):
        for i in range(columns):
            step = step_OG[o, group_B[i]]
            value = part_OB[o, i]
            code = nearest_level(value / step if step != 0 else step, midpoint_M)
            codes_OB[o, i] = code
            error = (value - step * levels_K[code]) / upper_BB[i, i]
            error_OB[o, i] = error
            rest, update = part_OB[o, i + 1 :], upper_BB[i, i + 1 :]
            for j in range(len(rest)):
                rest[j] -= error * update[j]


@loop(fastmath={"contract"})
def descend(codes_OI, pull_OI, gram_II, step_OG, group, levels_K, midpoint_M, sweeps):
    rows, columns = codes_OI.shape
    for o in range(rows):
        for _ in range(sweeps):
            moved = False
            for i in range(columns):
                step = step_OG[o, i // group]
                curvature = gram_II[i, i]
                if step == 0 or curvature <= 0:
                    continue
                code = codes_OI[o, i]
                wanted = nearest_level(levels_K[code] + pull_OI[o, i] / (curvature * step), midpoint_M)
                change = (levels_K[wanted] - levels_K[code]) * step
                if change == 0 or change * (change * curvature - np.float32(2) * pull_OI[o, i]) >= 0:
                    continue
                codes_OI[o, i] = wanted
                moved = True
                pull, update = pull_OI[o], gram_II[i]
                for j in range(columns):
                    pull[j] -= change * update[j]
            if not moved:
                break
