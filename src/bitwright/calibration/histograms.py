"""Histograms of bounded size that widen as larger values come, and end the same in whatever order they came.

A bin is [i · w, (i + 1) · w) with w a power of two, and the bins of a slot are the 2048 from its first on. When a value
falls outside, w is doubled and bins 2i and 2i + 1 become bin i, exactly. The width is the least that covers the range
seen so far, so it depends on the smallest and the largest value alone: batches may come in any order or size, and the
counts are those of one pass over everything. Halves of the bins at least are inside the range.

torch's HistogramObserver widens too, but spreads old counts over new bins by interpolation, which depends on the order.

Not here: what is read off (observers.py).
Dimension key: S slots · V values · B bins
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitwright.core.errors import InputError

BINS = 2048
CHUNK = 1 << 22  # values that are sorted into bins at once
LEAST_EXPONENT = -140  # float32 has nothing smaller to tell apart
PRECISION = 40  # bits of the largest magnitude that a bin can be narrow to: keeps indices whole numbers of 64 bits


class RunningHistograms:
    """Smallest value, largest value and histogram of each slot."""

    def __init__(self, slots: int, *, bins: int = BINS) -> None:
        self._bins = bins
        self.low_S: NDArray[np.float32] = np.full(slots, np.inf, dtype=np.float32)
        self.high_S: NDArray[np.float32] = np.full(slots, -np.inf, dtype=np.float32)
        self.counts_SB: NDArray[np.int64] = np.zeros((slots, bins), dtype=np.int64)
        self._first_S: NDArray[np.int64] = np.zeros(slots, dtype=np.int64)
        self._exponent_S: NDArray[np.int64] = np.full(slots, LEAST_EXPONENT, dtype=np.int64)

    def add(self, slots_S: NDArray[np.int64], values_SV: NDArray[np.float32]) -> None:
        """Count values of some slots, each slot at most once. Raises `InputError` for values that are not finite."""
        low_S, high_S = values_SV.min(axis=1), values_SV.max(axis=1)
        if not (np.isfinite(low_S).all() and np.isfinite(high_S).all()):
            raise InputError(
                "values to be observed are not finite",
                hint="the checkpoint may be damaged; run it in transformers first",
            )
        self._widen(slots_S, np.minimum(low_S, self.low_S[slots_S]), np.maximum(high_S, self.high_S[slots_S]))
        self.low_S[slots_S] = np.minimum(low_S, self.low_S[slots_S])
        self.high_S[slots_S] = np.maximum(high_S, self.high_S[slots_S])
        step = max(1, CHUNK // max(len(slots_S), 1))
        inverse_S1 = np.ldexp(1.0, -self._exponent_S[slots_S])[:, None]
        for start in range(0, values_SV.shape[1], step):
            part = values_SV[:, start : start + step]
            index = np.floor(part * inverse_S1).astype(np.int64) - self._first_S[slots_S, None]
            index += np.arange(len(slots_S))[:, None] * self._bins
            found = np.bincount(index.reshape(-1), minlength=len(slots_S) * self._bins)
            self.counts_SB[slots_S] += found.reshape(len(slots_S), self._bins)

    def edges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower edge of the first bin and width of the bins, per slot."""
        width_S: NDArray[np.float64] = np.ldexp(1.0, self._exponent_S)
        start_S: NDArray[np.float64] = self._first_S * width_S
        return start_S, width_S

    def _widen(self, slots_S: NDArray[np.int64], low_S: NDArray[np.float32], high_S: NDArray[np.float32]) -> None:
        """Give slots the bins of a new range, and move the counts."""
        wanted_S = _exponents(low_S, high_S, self._bins)
        first_S = np.floor(low_S.astype(np.float64) * np.ldexp(1.0, -wanted_S)).astype(np.int64)
        changed = (wanted_S != self._exponent_S[slots_S]) | (first_S != self._first_S[slots_S])
        for slot, exponent, first in zip(slots_S[changed], wanted_S[changed], first_S[changed], strict=True):
            old = self.counts_SB[slot]
            (held,) = np.nonzero(old)
            shift = int(exponent - self._exponent_S[slot])
            moved = ((held + self._first_S[slot]) >> min(shift, 63)) - first if len(held) else held
            self.counts_SB[slot] = np.bincount(moved, weights=old[held], minlength=self._bins).astype(np.int64)
            self._exponent_S[slot], self._first_S[slot] = exponent, first


def _exponents(low_S: NDArray[np.float32], high_S: NDArray[np.float32], bins: int) -> NDArray[np.int64]:
    """log2 of the least width with which `bins` bins cover [low, high]; a function of the range alone."""
    low, high = low_S.astype(np.float64), high_S.astype(np.float64)
    magnitude, span = np.maximum(np.abs(low), np.abs(high)), high - low
    largest = np.where(magnitude > 0, np.frexp(magnitude)[1] - PRECISION, LEAST_EXPONENT)
    spread = np.where(span > 0, np.frexp(span / bins)[1] - 1, LEAST_EXPONENT)
    exponent = np.maximum(np.maximum(largest, spread), LEAST_EXPONENT).astype(np.int64)
    for _ in range(3):
        scale = np.ldexp(1.0, -exponent)
        exponent += np.floor(high * scale) - np.floor(low * scale) >= bins
    return exponent
