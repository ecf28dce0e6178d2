"""Losses of rounding to E4M3 under one scale, read off a histogram: for stored scales of 8-bit floats.

Levels of floats lie closer the smaller they are, so that near zero one bin holds many of them: a bin counts as `POINTS`
values in equal distances, and its error is their mean. A bin's level in the sense of the entropy rule is that of its
center. What is larger than the largest level saturates; it is inside as long as that level is the nearest of a grid
that went on.

Not here: which scales are tried (observers.py), losses on equal steps (observer_kernels.py).
Dimension key: B bins · P points of a bin
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitwright.calibration.observer_kernels import level_divergence
from bitwright.tensors.minifloat_values import MINIFLOATS, decode_minifloat, encode_minifloat

ELEMENT = "e4m3"
POINTS = 8
LARGEST = MINIFLOATS[ELEMENT].largest
_VALUES = decode_minifloat(np.arange(MINIFLOATS[ELEMENT].largest_code + 1, dtype=np.uint8), ELEMENT).astype(np.float64)
LEVELS = np.concatenate([-_VALUES[:0:-1], _VALUES])
MIDDLES = np.concatenate([[-LARGEST - 16], (LEVELS[1:] + LEVELS[:-1]) / 2, [LARGEST + 16]])  # the next step is 32


def float_squared_error(counts_B: NDArray[np.int64], start: float, width: float, peak: float) -> float:
    """Σ count · mean of (x − value of its code)² over a bin, where the scale is `peak` / 448."""
    (held_B,) = np.nonzero(counts_B)
    values_BP = start + width * (held_B[:, None] + (np.arange(POINTS) + 0.5) / POINTS)
    scale = peak / LARGEST
    rounded_BP = decode_minifloat(encode_minifloat((values_BP / scale).astype(np.float32), ELEMENT), ELEMENT)
    error_B = np.square(values_BP - scale * rounded_BP.astype(np.float64)).mean(axis=1)
    return float(counts_B[held_B] @ error_B)


def float_divergence(counts_B: NDArray[np.int64], start: float, width: float, peak: float) -> float:
    """KL between the histogram and what the levels keep of it (`level_divergence`)."""
    centers_B = start + width * (np.arange(len(counts_B)) + 0.5)
    level_B = np.searchsorted(MIDDLES, centers_B * LARGEST / peak) - 1
    return float(level_divergence(counts_B, level_B, len(LEVELS)))
