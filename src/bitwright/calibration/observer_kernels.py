"""Losses of a quantizer on a histogram, compiled: squared error, and Kullback-Leibler divergence.

Not here: which quantizers are tried (observers.py).
Dimension key: B bins
"""

from __future__ import annotations

import math

import numba
import numpy as np

SMOOTHING = 1e-4  # share of its mass that a level is taken to give a bin where the unclipped histogram has nothing


@numba.njit(cache=True, nogil=True)
def squared_error(counts_B, start, width, scale, zero, low, high):
    """Σ count · (center − value of its code)²."""
    total = 0.0
    for b in range(len(counts_B)):
        if counts_B[b] == 0:
            continue
        center = start + (b + 0.5) * width
        code = min(max(round(center / scale) + zero, low), high)
        error = center - scale * (code - zero)
        total += counts_B[b] * error * error
    return total


@numba.njit(cache=True, nogil=True)
def level_divergence(counts_B, level_B, levels):
    """KL(P ‖ Q): P is the histogram with clipped tails moved to the last bins inside; Q gives the mass that lies inside
    one level to the bins of that level, in equal shares over those that are not empty in P. Levels 0 to levels - 1 are
    inside."""
    bins = len(counts_B)
    mass, filled = np.zeros(levels), np.zeros(levels)
    moved_B = np.zeros(bins)
    first, last = bins, -1
    for b in range(bins):
        if 0 <= level_B[b] < levels:
            first, last = min(first, b), b
    if last < 0:
        return math.inf
    total = 0.0
    for b in range(bins):
        moved_B[min(max(b, first), last)] += counts_B[b]
        total += counts_B[b]
    inside = 0.0
    for b in range(first, last + 1):
        mass[level_B[b]] += counts_B[b]
        filled[level_B[b]] += moved_B[b] > 0
        inside += counts_B[b]
    if inside == 0:
        return math.inf
    result = 0.0
    for b in range(first, last + 1):
        if moved_B[b] == 0:
            continue
        level = level_B[b]
        p = moved_B[b] / total
        q = max(mass[level] / filled[level] / inside, SMOOTHING / bins)
        result += p * math.log(p / q)
    return result


@numba.njit(cache=True, nogil=True)
def divergence(counts_B, start, width, scale, zero, low, high):
    """The loss of information on a grid of equal steps: see `level_divergence`."""
    level_B = np.empty(len(counts_B), dtype=np.int64)
    for b in range(len(counts_B)):
        level_B[b] = int(round((start + (b + 0.5) * width) / scale) + zero - low)
    return level_divergence(counts_B, level_B, int(high - low) + 1)
