"""Observers: watch values go by in batches, then say with which scale and zero point to round them.

    minmax      the whole range
    percentile  the range that holds a share of the values; the rest is clipped
    mse         the range whose rounding has the least squared error
    entropy     the range that loses least information: KL between the histogram and what the levels keep of it

Everything but the smallest and largest value is read off histograms of bounded size (histograms.py), so memory does not
grow with the text, and batches may come in any order. Ranges hold zero. With range [a, b] and n bits:

    symmetric    scale = max(|a|, |b|) / ((2ⁿ − 1) / 2)    zero = 0
    asymmetric   scale = (b − a) / (2ⁿ − 1)                zero = −2ⁿ⁻¹ − round(a / scale)

with codes in [−2ⁿ⁻¹, 2ⁿ⁻¹ − 1], as torch and compressed-tensors have it. Levels of E4M3 are not in equal steps:
for them the searches have losses of their own (float_levels.py).

The searches try the whole range times 1, 0.99, … 0.2; asymmetric ranges are then narrowed on either side alone, twice.
The whole range is among the candidates, so neither search is worse than `minmax` by its own measure.

Not here: dynamic scales, which an engine takes from what it sees; scales of weights that are searched together with
their codes (quantize/).
Dimension key: S slots, one per scale · B bins
Sources: Migacz 2017, "8-bit Inference with TensorRT" (entropy); Wu et al. 2020, arXiv:2004.09602 §5.1 (percentile,
entropy); torch.ao.quantization.observer (formulas of scale and zero point).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bitwright.calibration.float_levels import float_divergence, float_squared_error
from bitwright.calibration.histograms import BINS, RunningHistograms
from bitwright.calibration.observer_kernels import divergence, squared_error
from bitwright.calibration.sharing import Sharing
from bitwright.core.errors import UsageError
from bitwright.core.plan import PERCENTILE, ObserverRule

SHRINK = np.round(np.arange(100, 19, -1) / 100, 2)
FLOAT_LOSSES = {"mse": float_squared_error, "entropy": float_divergence}  # on levels of E4M3
SLAB = 1 << 14  # slots whose histograms are held at once when a weight is observed: 256 MiB
Floats = NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """Scale float32 and zero point int32, in the shape of `Sharing.shape`; codes lie in [low, high]."""

    scale: NDArray[np.float32]
    zero: NDArray[np.int32]
    low: int
    high: int

    def round(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """What is left of values [S, V] after rounding, one row per scale."""
        scale, zero = self.scale.reshape(-1, 1), self.zero.reshape(-1, 1)
        codes = np.clip(np.rint(values / scale) + zero, self.low, self.high)
        result: NDArray[np.float32] = ((codes - zero) * scale).astype(np.float32)
        return result


class Observer:
    """Watches arrays of one width."""

    def __init__(
        self, rule: ObserverRule, sharing: Sharing, *, percentile: float = PERCENTILE, bins: int = BINS
    ) -> None:
        """Raises `UsageError` for a percentile outside (50, 100]."""
        if not 50 < percentile <= 100:
            raise UsageError(f"percentile {percentile} keeps too little or more than there is", hint="use 99 to 100")
        self._rule, self._sharing, self._percentile, self._bins = rule, sharing, percentile, bins
        self._shape: tuple[int, ...] = ()
        self._seen: RunningHistograms | None = None

    def add(self, values: NDArray[np.float32]) -> None:
        """Count a batch [..., I]. Raises `InputError` for values that are not finite."""
        values = np.ascontiguousarray(values, dtype=np.float32).reshape(-1, values.shape[-1])
        if not values.size:
            return
        shape = self._sharing.shape(*values.shape)
        if self._seen is None:
            self._shape = shape
            self._seen = RunningHistograms(int(np.prod(shape)), bins=self._bins)
        assert shape == self._shape, f"{shape} scales, {self._shape} before"
        for slots, held in self._sharing.parts(values):
            self._seen.add(slots, held)

    def parameters(self, bits: int, *, symmetric: bool = True) -> Parameters:
        """Scale and zero point. Raises `UsageError` when nothing was seen."""
        low_S, high_S = self._ranges(bits, symmetric=symmetric)
        scale_S, zero_S = scale_and_zero(low_S, high_S, bits, symmetric=symmetric)
        return Parameters(
            scale=scale_S.reshape(self._shape),
            zero=zero_S.reshape(self._shape),
            low=-(2 ** (bits - 1)),
            high=2 ** (bits - 1) - 1,
        )

    def peak(self, element: str) -> float:
        """The magnitude that a stored scale of `int8` or `e4m3` inputs reaches to, where all share one scale.

        Of another element only the rules know it that do not ask how values are rounded (minmax, percentile). Raises
        `UsageError` when nothing was seen.
        """
        if element != "e4m3" or self._rule not in FLOAT_LOSSES:
            low_S, high_S = self._ranges(8, symmetric=True)
            return float(max(-low_S[0], high_S[0]))
        (low,), (high,) = self._whole()
        peaks, loss = max(-low, high) * SHRINK, FLOAT_LOSSES[self._rule]
        assert self._seen is not None
        (start,), (width,) = self._seen.edges()
        if peaks[0] == 0:
            return 0.0
        return float(peaks[np.argmin([loss(self._seen.counts_SB[0], start, width, peak) for peak in peaks])])

    def _whole(self) -> tuple[Floats, Floats]:
        if self._seen is None:
            raise UsageError("nothing was observed", hint="give calibration text")
        return _with_zero(self._seen.low_S, self._seen.high_S)

    def _ranges(self, bits: int, *, symmetric: bool) -> tuple[Floats, Floats]:
        low_S, high_S = self._whole()
        assert self._seen is not None
        match self._rule:
            case "minmax":
                return low_S, high_S
            case "percentile":
                return _percentile(self._seen, self._percentile, low_S, high_S, symmetric=symmetric)
            case "mse":
                return _search(self._seen, squared_error, low_S, high_S, bits, symmetric=symmetric)
            case "entropy":
                return _search(self._seen, divergence, low_S, high_S, bits, symmetric=symmetric)


def observe_weight(
    weight_OI: NDArray[np.float32],
    rule: ObserverRule,
    sharing: Sharing,
    bits: int,
    *,
    symmetric: bool = True,
    percentile: float = PERCENTILE,
) -> Parameters:
    """Scale and zero point of a whole matrix, rows in slabs so that histograms stay small."""
    rows, columns = weight_OI.shape
    shape = sharing.shape(rows, columns)
    per_row = max(1, int(np.prod(shape)) // rows)
    unit = sharing.size if sharing.kind == "block" else 1
    step = rows if sharing.kind == "tensor" else max(1, SLAB // per_row // unit) * unit
    slabs = []
    for start in range(0, rows, step):
        observer = Observer(rule, sharing, percentile=percentile)
        observer.add(weight_OI[start : start + step])
        slabs.append(observer.parameters(bits, symmetric=symmetric))
    return Parameters(
        scale=np.concatenate([slab.scale for slab in slabs]).reshape(shape),
        zero=np.concatenate([slab.zero for slab in slabs]).reshape(shape),
        low=slabs[0].low,
        high=slabs[0].high,
    )


def scale_and_zero(
    low_S: Floats, high_S: Floats, bits: int, *, symmetric: bool
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Scale and zero point of ranges that hold zero; a range without width has scale 1."""
    span = 2**bits - 1
    width_S = np.maximum(-low_S, high_S) * 2 if symmetric else high_S - low_S
    scale_S = (width_S / span).astype(np.float32)
    scale_S[scale_S == 0] = 1
    if symmetric:
        return scale_S, np.zeros(len(scale_S), dtype=np.int32)
    least = -(2 ** (bits - 1))
    zero_S = np.clip(least - np.rint(low_S / scale_S), least, least + span).astype(np.int32)
    return scale_S, zero_S


def _with_zero(low_S: NDArray[np.float32], high_S: NDArray[np.float32]) -> tuple[Floats, Floats]:
    return np.minimum(low_S, 0).astype(np.float64), np.maximum(high_S, 0).astype(np.float64)


def _percentile(
    seen: RunningHistograms, percentile: float, low_S: Floats, high_S: Floats, *, symmetric: bool
) -> tuple[Floats, Floats]:
    """Cut the tails: of magnitudes where the range is symmetric, half on either side where it is not."""
    if percentile == 100:
        return low_S, high_S
    start_S, width_S = seen.edges()
    low, high = low_S.copy(), high_S.copy()
    share = percentile / 100
    for s, counts_B in enumerate(seen.counts_SB):
        edges = start_S[s] + width_S[s] * np.arange(len(counts_B) + 1)
        if symmetric:
            # a bin lies on one side of zero, because zero is an edge of every grid of bins
            magnitudes = np.maximum(np.abs(edges[:-1]), np.abs(edges[1:]))
            order = np.argsort(magnitudes, kind="stable")
            reached = np.cumsum(counts_B[order])
            cut = magnitudes[order][min(int(np.searchsorted(reached, share * reached[-1])), len(counts_B) - 1)]
            low[s], high[s] = max(low_S[s], -cut), min(high_S[s], cut)
        else:
            reached = np.cumsum(counts_B) / counts_B.sum()
            low[s] = max(low_S[s], min(edges[np.searchsorted(reached, (1 - share) / 2, side="right")], 0))
            last = min(int(np.searchsorted(reached, (1 + share) / 2)), len(counts_B) - 1)
            high[s] = min(high_S[s], max(edges[last + 1], 0))
    return low, high


def _search(
    seen: RunningHistograms,
    loss: Callable[..., float],
    low_S: Floats,
    high_S: Floats,
    bits: int,
    *,
    symmetric: bool,
) -> tuple[Floats, Floats]:
    """The range of least loss among those that SHRINK makes of the whole one."""
    start_S, width_S = seen.edges()
    low, high = low_S.copy(), high_S.copy()
    least, most = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for s, counts_B in enumerate(seen.counts_SB):

        def best(lows: Floats, highs: Floats, s: int = s, counts_B: NDArray[np.int64] = counts_B) -> int:
            scale, zero = scale_and_zero(lows, highs, bits, symmetric=symmetric)
            losses = [
                loss(counts_B, start_S[s], width_S[s], float(one), float(other), float(least), float(most))
                for one, other in zip(scale, zero, strict=True)
            ]
            return int(np.argmin(losses))

        taken = SHRINK[best(low_S[s] * SHRINK, high_S[s] * SHRINK)]
        low[s], high[s] = low_S[s] * taken, high_S[s] * taken
        for _ in range(0 if symmetric else 2):
            low[s] = low_S[s] * SHRINK[best(low_S[s] * SHRINK, np.full(len(SHRINK), high[s]))]
            high[s] = high_S[s] * SHRINK[best(np.full(len(SHRINK), low[s]), high_S[s] * SHRINK)]
    return low, high
