"""One decoded matrix held against the reference's, tile by tile: is the difference that of rounding?

Rounding leaves an error that is small beside the largest weight that shares a scale and that points nowhere. What is
broken leaves one that is large, or that a few numbers explain: a factor per tile (a scale of somebody else), a constant
per tile (a zero point off by one). Tiles are 32 inputs of one row: groups of all formats are made of whole ones, except
NVFP4's, of which a tile holds two.

Not here: which reference matrix is meant, where columns were scaled on purpose (folds.py); what would explain the
difference (causes.py).
Dimension key: O outputs · I inputs · G tiles of a row
"""

from __future__ import annotations

import dataclasses
import math

import torch

TILE = 32
CHUNK = 1 << 18  # values at a time: what lies between two passes stays in the processor's cache
SEGMENT = 8  # tiles: 256 inputs, what may share a scale in GGUF
FLOAT_BITS = 15.0  # from here on a tensor is stored in floating point
FLOAT_ERROR = 1e-4  # bfloat16 rounds to a relative squared error of 3e-6, an F16 that underflows to a little more
LEAST_LIMIT = 0.01  # 8-bit floats err by 7e-4, integers under one scale per row of outliers by 5e-3
FOUR_BITS = 0.0116  # relative squared error of normal weights in groups of 128 at 4 bits
ROOM = 25.0  # feedback, outliers in long rows and columns that count little come to less than this
MOST = 0.75  # two bits under one scale per row lose that much; noise of the same power errs by two
EXPLAINED = 0.5  # rounding leaves 1/32 to one number per tile, and a tenth where large weights are clipped
LOST_STEPS, LOST_POWER = 0.15, 0.5  # a tile is lost at an error of so many squared peaks, and so much of its power
UNUSUAL, USUAL_POWER = (
    10.0,
    0.04,
)  # and at so many times what is usual in its row, which is at most so much of its power


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """How far a matrix is from where it should be. Errors are squared and relative to the reference's power."""

    error: float
    limit: float  # that a sound one of its bits keeps below
    gain: float  # share of the error that one factor per tile explains
    offset: float  # share of the error that one constant per tile explains
    lost: torch.Tensor  # bool [O, G]: tiles whose content is another
    not_finite: int = 0

    @property
    def sound(self) -> bool:
        """Whether rounding explains it."""
        return not (self.not_finite or self.off or self.explained or self.damaged)

    @property
    def certain(self) -> bool:
        """Whether it is broken even if the model was changed as a whole."""
        return bool(self.not_finite) or self.explained

    @property
    def off(self) -> bool:
        """The whole matrix is too far away."""
        return self.error > self.limit

    @property
    def explained(self) -> bool:
        """The error has a direction, and little is left without it."""
        share = max(self.gain, self.offset)
        return self.error > FLOAT_ERROR and share > EXPLAINED and (1 - share) * self.error < MOST

    @property
    def damaged(self) -> bool:
        """Some tiles are lost."""
        return bool(self.lost.any())


def error_limit(bits: float) -> float:
    """The most that a sound matrix stored in `bits` per weight is off."""
    if bits >= FLOAT_BITS:
        return FLOAT_ERROR
    return min(max(ROOM * FOUR_BITS * 4.0 ** (4 - math.floor(bits)), LEAST_LIMIT), MOST)


def fit(reference: torch.Tensor, artifact: torch.Tensor, bits: float) -> Fit:
    """Compare float32 [O, I] or [I]; `bits` per weight that the artifact stores it in, scales included."""
    here, there = (_rows(value) for value in (reference, artifact))
    chunk = max(1, CHUNK // max(here.shape[1], 1))
    sums, lost, not_finite = torch.zeros(4, dtype=torch.float64), [], 0
    for part, other in zip(torch.split(here, chunk), torch.split(there, chunk), strict=True):
        found, where, odd = _compare(part, other, bits)
        sums += found
        lost.append(where)
        not_finite += odd
    total, power, by_gain, by_offset = sums.tolist()
    return Fit(
        error=total / power if power else float(total > 0),
        limit=error_limit(bits),
        gain=1 - by_gain / total if total else 0.0,
        offset=1 - by_offset / total if total and here.shape[0] > 1 else 0.0,
        lost=torch.cat(lost),
        not_finite=not_finite,
    )


def exact() -> Fit:
    """Of what stands where it should."""
    return Fit(error=0.0, limit=FLOAT_ERROR, gain=0.0, offset=0.0, lost=torch.zeros(1, 1, dtype=torch.bool))


def _compare(here: torch.Tensor, there: torch.Tensor, bits: float) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Some rows: Σ error, Σ power, Σ error left by a factor and by a constant per tile; lost tiles; odd values."""
    not_finite = 0
    if not bool(torch.isfinite(there.sum())):
        finite = torch.isfinite(there)
        not_finite = int((~finite).sum())
        there = torch.where(finite, there, here)
    here_OGT, there_OGT = _tiled(here), _tiled(there)
    off_OGT = there_OGT - here_OGT
    power, error = here_OGT.square().sum(-1), off_OGT.square().sum(-1)
    along = (here_OGT * off_OGT).sum(-1)
    by_gain = (error - along.square() / power.clamp_min(torch.finfo(torch.float32).tiny)).clamp_min(0)
    by_offset = (error - off_OGT.sum(-1).square() / TILE).clamp_min(0)
    sums = torch.stack([part.sum(dtype=torch.float64) for part in (error, power, by_gain, by_offset)])
    return sums, _lost(here_OGT, error, power, bits), not_finite


def _lost(here_OGT: torch.Tensor, error_OG: torch.Tensor, power_OG: torch.Tensor, bits: float) -> torch.Tensor:
    """Tiles with an error that no rounding to the largest weight nearby gives, nor is usual in their row."""
    suspect: torch.Tensor = (error_OG > LOST_POWER * power_OG) & (error_OG > 0)
    if not bool(suspect.any()):
        return suspect
    rows, groups, _ = here_OGT.shape
    peak_OG = here_OGT.abs().amax(-1)
    padded = torch.nn.functional.pad(peak_OG, (0, -groups % SEGMENT))
    nearby = padded.view(rows, -1, SEGMENT).amax(-1).repeat_interleave(SEGMENT, dim=1)[:, :groups]
    step = 2.0 / (2 ** math.floor(min(bits, 12.0)) - 1)
    usual_O1 = torch.minimum(
        error_OG.median(dim=1, keepdim=True).values, USUAL_POWER * power_OG.mean(dim=1, keepdim=True)
    )
    allowed = torch.maximum(TILE * min(step * step, LOST_STEPS) * nearby.square(), UNUSUAL * usual_O1)
    return suspect & (error_OG > allowed)


def _rows(value: torch.Tensor) -> torch.Tensor:
    value = value.float()
    return value[None] if value.dim() == 1 else value.reshape(value.shape[0], -1)


def _tiled(value_OI: torch.Tensor) -> torch.Tensor:
    short = -value_OI.shape[1] % TILE
    padded = torch.nn.functional.pad(value_OI, (0, short)) if short else value_OI
    return padded.reshape(value_OI.shape[0], -1, TILE)
