"""Which matrices of an artifact to keep in more bits, what that costs in bytes, and what it saves."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.core.diagnosis import Advice, Advised
from bitwright.core.plan import ArtifactFormat, TensorFacts
from bitwright.core.protocols import Progress, WeightSource

if TYPE_CHECKING:
    from bitwright.calibration.corpora import TokenWindows
    from bitwright.core.records import Estimate
    from bitwright.evaluation.lockstep import Walked
    from bitwright.evaluation.weights import WeightsWatch
    from bitwright.modeling.walk import Walker

ADVISED = 8  # matrices
TRIED_TOKENS = 4096  # at most: every trial holds a residual stream
FLOAT_BITS = 16.0
EIGHT_BITS: dict[ArtifactFormat, tuple[str, float]] = {  # types that a file may mix, with bits per weight
    "gguf": ("Q8_0", 8.5),
    "compressed-tensors": ("W8A16", 8.0),
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """From the bits that a matrix has to those that it might have."""

    bits: float
    to: str
    wanted: float

    @property
    def share(self) -> float:
        """Of the error of rounding that goes: half a step for every bit."""
        return 1.0 if self.to == "floats" else 1 - 2.0 ** (self.bits - self.wanted)


def advice_for(
    original: WeightSource,
    watched: WeightsWatch,
    walkers: tuple[Walker, Walker],
    walked: Walked,
    text: TokenWindows,
    kind: ArtifactFormat,
    progress: Progress,
) -> tuple[tuple[Advice, ...], Advised | None]:
    """The matrices that are predicted to gain most for the bytes that more bits take, each tried on `text`: most
    nats for a byte first. `walkers` and `walked` are of reference and artifact on the same text."""
    from bitwright.evaluation.gains import gains

    chosen = _chosen(original, watched, text, kind, progress)
    if not chosen:
        return (), None
    steps = {name: step for name, step, _, _ in chosen}
    count = max(2, TRIED_TOKENS // text.tokens.shape[1])
    part = dataclasses.replace(walked, reference=walked.reference[:count], artifact=walked.artifact[:count])

    def tried(trials: Sequence[Sequence[str]]) -> list[Estimate]:
        return gains(
            *walkers, part, text.tokens[:count], trials, lambda name: watched.nearer(name, steps[name].share),
            progress=progress,
        )  # fmt: skip

    found = [
        Advice(tensor=name, bits=step.bits, to=step.to, option=_option(name, step), bytes=size, kl=gain, predicted=nats)
        for (name, step, size, nats), gain in zip(chosen, tried([[name] for name in steps]), strict=True)
        if gain.value > 0
    ]
    if not found:
        return (), None
    found.sort(key=lambda row: -row.kl.value / max(row.bytes, 1))
    together = tried([[row.tensor for row in found]])
    return tuple(found), Advised(bytes=sum(row.bytes for row in found), kl=together[0])


def _chosen(
    original: WeightSource, watched: WeightsWatch, text: TokenWindows, kind: ArtifactFormat, progress: Progress
) -> list[tuple[str, _Step, int, float]]:
    """Those worth a trial: name, step, bytes, and the nats that a backward pass on the reference predicts."""
    from bitwright.modeling.walk import Walker
    from bitwright.pipeline.losses import predicted_losses
    from bitwright.pipeline.sensitivity import take_sensitivities

    with tempfile.TemporaryDirectory() as work:
        taken = take_sensitivities(Path(work), Walker(original), text.tokens, batch=4, progress=progress)
        losses = predicted_losses(original.facts, taken, watched.error_of)
    found = []
    for tensor in watched.facts.tensors:
        step = _step(tensor, kind)
        if tensor.name in losses and step is not None:
            size = int(step.wanted / 8 * tensor.shape[0] * tensor.shape[1]) - tensor.bytes
            found.append((tensor.name, step, size, losses[tensor.name] * (1 - (1 - step.share) ** 2)))
    return sorted(found, key=lambda row: -row[3] / max(row[2], 1))[:ADVISED]


def _step(tensor: TensorFacts, kind: ArtifactFormat) -> _Step | None:
    """To 8 bits where the format may mix them in, else to floats; none from there."""
    from bitwright.evaluation.weights import bits_of

    bits = bits_of(tensor)
    if kind in EIGHT_BITS and bits < EIGHT_BITS[kind][1] - 1:
        return _Step(bits, *EIGHT_BITS[kind])
    return _Step(bits, "floats", FLOAT_BITS) if bits < FLOAT_BITS - 1 else None


def _option(name: str, step: _Step) -> str:
    """What `quantize` is told."""
    return f"--keep {name}" if step.to == "floats" else f"--type {name}={step.to}"
