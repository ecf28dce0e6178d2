"""The compiled loops of this room. Numba infers their types; each has a plain twin or an oracle in the tests.

Rows are independent; solve.py hands out slabs of rows to threads, and the loops release the interpreter's lock.
Importance is one weight per input, [I]. Sums are float32 within a group, float64 across a super-block.
Dimension key: O outputs · I inputs · G groups along I · N super-blocks · S sub-blocks · B columns of one block
"""

from __future__ import annotations

import numpy as np

from bitwright.quantize.compiled import loop

TINY = np.float32(1e-30)  # a group with no larger weight is all zero
BIG = np.float32(3e38)  # larger than any loss; infinity is not allowed under fastmath


# Division by a step that cannot be zero, and no branch: the loop fills whole registers, at a fifth of the time.
@loop(fastmath={"nsz"}, error_model="numpy")
def round_nearest(weight_OI, step_OG, zero_OG, offset_OG, group, low, high, codes_OI):
    rows, columns = weight_OI.shape
    for o in range(rows):
        for g in range(columns // group):
            step, zero, offset = step_OG[o, g], zero_OG[o, g], offset_OG[o, g]
            w, codes = weight_OI[o, g * group : (g + 1) * group], codes_OI[o, g * group : (g + 1) * group]
            safe = step if step != 0 else np.float32(1)
            for i in range(group):
                gap = w[i] - offset if step != 0 else np.float32(0)
                codes[i] = np.int32(min(max(np.rint(gap / safe + zero), low), high))


@loop(fastmath={"contract", "reassoc", "nsz"})
def measure(weight_OI, codes_OI, step_OG, zero_OG, offset_OG, group):
    """Σ error² and Σ weight² of codes on a grid."""
    rows, columns = weight_OI.shape
    error, size = 0.0, 0.0
    for o in range(rows):
        for g in range(columns // group):
            step, zero, offset = step_OG[o, g], zero_OG[o, g], offset_OG[o, g]
            w, codes = weight_OI[o, g * group : (g + 1) * group], codes_OI[o, g * group : (g + 1) * group]
            part, whole = np.float32(0), np.float32(0)
            for i in range(group):
                off = w[i] - (step * (np.float32(codes[i]) - zero) + offset)
                part += off * off
                whole += w[i] * w[i]
            error += part
            size += whole
    return error, size


@loop(fastmath=True)
def search_affine(weight_OI, importance_I, group, levels, free_sign, whole_zero, step_OG, minimum_OG):
    rows, columns = weight_OI.shape
    top = np.float32(levels)
    for o in range(rows):
        for g in range(columns // group):
            w = weight_OI[o, g * group : (g + 1) * group]
            d = importance_I[g * group : (g + 1) * group]
            lowest, highest = w[0], w[0]
            for i in range(group):
                lowest, highest = min(lowest, w[i]), max(highest, w[i])
            if not free_sign:
                lowest, highest = min(lowest, np.float32(0)), max(highest, np.float32(0))
            if highest - lowest < TINY:
                step_OG[o, g] = 0
                minimum_OG[o, g] = lowest
                continue
            best, best_step, best_minimum = np.float32(3e38), np.float32(0), np.float32(0)
            for c in range(32):
                shrink = np.float32(0.5 + 0.55 * c / 31)
                step = (highest - lowest) * shrink / top
                minimum = lowest * shrink if not free_sign else (lowest + highest) / 2 - (highest - lowest) * shrink / 2
                for _ in range(3 if whole_zero else 2):
                    inverse = np.float32(1) / step
                    if whole_zero:
                        minimum = -step * min(max(np.rint(-minimum * inverse), np.float32(0)), top)
                    loss = np.float32(0)
                    sd, sq, sqq, sw, swq = np.float32(0), np.float32(0), np.float32(0), np.float32(0), np.float32(0)
                    for i in range(group):
                        q = min(max(np.rint((w[i] - minimum) * inverse), np.float32(0)), top)
                        e = w[i] - (step * q + minimum)
                        loss += d[i] * e * e
                        sd += d[i]
                        sq += d[i] * q
                        sqq += d[i] * q * q
                        sw += d[i] * w[i]
                        swq += d[i] * w[i] * q
                    if loss < best:
                        best, best_step, best_minimum = loss, step, minimum
                    determinant = sd * sqq - sq * sq
                    if determinant <= TINY:
                        break
                    step = (sd * swq - sq * sw) / determinant
                    minimum = (sqq * sw - sq * swq) / determinant
                    if not free_sign and minimum > 0:
                        minimum = np.float32(0)
                        step = swq / sqq
                    if step <= 0:
                        break
            step_OG[o, g] = best_step
            minimum_OG[o, g] = best_minimum


@loop(fastmath={"contract"})
def round_block(part_OB, upper_BB, group_B, step_OG, zero_OG, offset_OG, low, high, codes_OB, error_OB):
    rows, columns = part_OB.shape
    for o in range(rows):
        for i in range(columns):
            g = group_B[i]
            step = step_OG[o, g]
            value = part_OB[o, i]
            level = np.rint((value - offset_OG[o, g]) / step + zero_OG[o, g]) if step != 0 else zero_OG[o, g]
            level = min(max(level, low), high)
            codes_OB[o, i] = level
            error = (value - (step * (level - zero_OG[o, g]) + offset_OG[o, g])) / upper_BB[i, i]
            error_OB[o, i] = error
            rest, update = part_OB[o, i + 1 :], upper_BB[i, i + 1 :]
            for j in range(len(rest)):
                rest[j] -= error * update[j]


@loop(fastmath={"contract"})
def descend(codes_OI, pull_OI, gram_II, step_OG, group, low, high, sweeps):
    rows, columns = codes_OI.shape
    for o in range(rows):
        for _ in range(sweeps):
            moved = False
            for i in range(columns):
                step = step_OG[o, i // group]
                curvature = gram_II[i, i]
                if step == 0 or curvature <= 0:
                    continue
                code = np.float32(codes_OI[o, i])
                wanted = min(max(code + np.rint(pull_OI[o, i] / (curvature * step)), low), high)
                change = (wanted - code) * step
                if change == 0 or change * (change * curvature - np.float32(2) * pull_OI[o, i]) >= 0:
                    continue
                codes_OI[o, i] = wanted
                moved = True
                pull, update = pull_OI[o], gram_II[i]
                for j in range(columns):
                    pull[j] -= change * update[j]
            if not moved:
                break
