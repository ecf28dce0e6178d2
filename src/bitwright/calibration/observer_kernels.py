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
def divergence(counts_B, start, width, scale, zero, low, high):
    """KL(P ‖ Q): P is the histogram with clipped tails moved to the last bins inside; Q gives the mass that lies inside
    one level to the bins of that level, in equal shares over those that are not empty in P."""
    bins = len(counts_B)
    levels = int(high - low) + 1
    mass, filled = np.zeros(levels), np.zeros(levels)
    moved_B = np.zeros(bins)
    first, last = bins, -1
    for b in range(bins):
        level = round((start + (b + 0.5) * width) / scale) + zero
        if low <= level <= high:
            first, last = min(first, b), b
    if last < 0:
        return math.inf
    total = 0.0
    for b in range(bins):
        moved_B[min(max(b, first), last)] += counts_B[b]
        total += counts_B[b]
    inside = 0.0
    for b in range(first, last + 1):
        level = int(round((start + (b + 0.5) * width) / scale) + zero - low)
        mass[level] += counts_B[b]
        filled[level] += moved_B[b] > 0
        inside += counts_B[b]
    if inside == 0:
        return math.inf
    result = 0.0
    for b in range(first, last + 1):
        if moved_B[b] == 0:
            continue
        level = int(round((start + (b + 0.5) * width) / scale) + zero - low)
        p = moved_B[b] / total
        q = max(mass[level] / filled[level] / inside, SMOOTHING / bins)
        result += p * math.log(p / q)
    return result
