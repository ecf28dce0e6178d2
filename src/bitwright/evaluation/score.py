"""From final residual streams to figures of every measured token.

Scored are the positions of the second half of each window: they have context, as tokens in use have. For the curve over
positions every fourth position of the first half is measured too; it enters no mean.
Logits of [tokens, vocabulary] exist only for a chunk of rows.

Dimension key: W windows, T positions, P measured positions per window, H hidden. Not here: the figures of a text
(figures.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.errors import InputError
from bitwright.core.protocols import Progress
from bitwright.evaluation.divergence import Measures, compare
from bitwright.evaluation.lockstep import BlockWalker, Walked, first_scored
from bitwright.evaluation.reference_cache import ReferenceCache, Stored

EARLY_STRIDE = 4  # the first half costs a quarter of what the second does
IDS = ("top_reference", "top_artifact")
CHUNK_BYTES = 16 * 1024**2  # one block of float32 logits; five of that size live at once


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Measures [W, P] at `positions` [P]; those from `first` on are scored. `kl_variance` [W, P] is what reference
    logits from a cache add to each KL.
    """

    measures: Measures
    positions: NDArray[np.int64]
    first: int
    kl_variance: NDArray[np.float64] | None = None

    @property
    def scored(self) -> NDArray[np.bool_]:
        """Which of the P positions count."""
        return self.positions >= self.first

    @property
    def sound(self) -> NDArray[np.bool_]:
        """Windows [W] in which the artifact gave finite numbers throughout."""
        result: NDArray[np.bool_] = np.all(self.measures.finite, axis=1)
        return result

    def windows(self, start: int, stop: int) -> Scores:
        """The scores of windows [start, stop)."""
        fields = {field.name: getattr(self.measures, field.name)[start:stop] for field in dataclasses.fields(Measures)}
        variance = None if self.kl_variance is None else self.kl_variance[start:stop]
        return dataclasses.replace(self, measures=Measures(**fields), kl_variance=variance)


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of all windows, one part after another."""
    fields = {
        field.name: np.concatenate([getattr(part.measures, field.name) for part in parts])
        for field in dataclasses.fields(Measures)
    }
    variances = [part.measures.kl * 0 if part.kl_variance is None else part.kl_variance for part in parts]
    cached = any(part.kl_variance is not None for part in parts)
    return dataclasses.replace(
        parts[0], measures=Measures(**fields), kl_variance=np.concatenate(variances) if cached else None
    )


def score(
    reference: BlockWalker,
    artifact: BlockWalker,
    walked: Walked,
    tokens_WT: torch.Tensor,
    *,
    progress: Progress,
    cache: ReferenceCache | None = None,
) -> Scores:
    """Compute logits chunk by chunk and measure; the reference's are kept in `cache`, where one is given.

    Raises `InputError` when the reference itself is not finite.
    """
    places = _places(tokens_WT)
    streams = walked.reference.flatten(0, 1), walked.artifact.flatten(0, 1)
    vocabulary = reference.logits(streams[0][:1]).shape[-1]
    table = _Table(len(places.flat))
    with contextlib.ExitStack() as stack:
        keep = stack.enter_context(cache.writer(tokens_WT, len(places.flat), vocabulary)) if cache else None
        for rows, targets in _chunks(places, vocabulary, progress):
            expected = reference.logits(streams[0][rows])
            part = compare(expected, artifact.logits(streams[1][rows]), targets)
            _check_reference(part)
            if keep is not None:
                keep.add(expected, part.nll_reference)
            table.add(part)
    return table.scores(places)


def score_stored(
    stored: Stored, artifact: BlockWalker, stream_WTH: torch.Tensor, tokens_WT: torch.Tensor, *, progress: Progress
) -> Scores:
    """The same from kept logits of the reference and the artifact's final stream."""
    places = _places(tokens_WT)
    stream = stream_WTH.flatten(0, 1)
    vocabulary = artifact.logits(stream[:1]).shape[-1]
    table, variances = _Table(len(places.flat)), np.empty(len(places.flat))
    for rows, targets in _chunks(places, vocabulary, progress):
        start = table.filled
        part, variances[start : start + len(rows)] = stored.compare(start, artifact.logits(stream[rows]), targets)
        table.add(part)
    scores = table.scores(places)
    return dataclasses.replace(scores, kl_variance=variances.reshape(scores.measures.kl.shape))


@dataclasses.dataclass(frozen=True, slots=True)
class _Places:
    """Measured positions [P] of a window, and of all windows as places in flat streams [W · P]."""

    positions: torch.Tensor
    flat: torch.Tensor
    following: torch.Tensor  # the next token of each place
    first: int


def _places(tokens_WT: torch.Tensor) -> _Places:
    windows, length = tokens_WT.shape
    first = first_scored(length)
    positions = torch.cat([torch.arange(0, first, EARLY_STRIDE), torch.arange(first, length - 1)])
    flat = (torch.arange(windows)[:, None] * length + positions).flatten()
    return _Places(positions, flat, tokens_WT.flatten()[flat + 1], first)


def _chunks(places: _Places, vocabulary: int, progress: Progress) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    chunk = max(1, CHUNK_BYTES // (4 * vocabulary))
    progress.start("comparing predictions", len(places.flat), "tokens")
    try:
        for start in range(0, len(places.flat), chunk):
            yield places.flat[start : start + chunk], places.following[start : start + chunk]
            progress.advance(min(chunk, len(places.flat) - start))
    finally:
        progress.stop()


class _Table:
    """Figures of all measured tokens, copied to their place as chunks give them.

    Why not a list of what the chunks gave: small arrays that stay, and views of large ones, lie between the blocks of
    logits and keep their memory from being used again; the process grew by a gigabyte for every hundred blocks.
    """

    def __init__(self, tokens: int) -> None:
        kinds = {field.name: np.int64 if field.name in IDS else np.float64 for field in dataclasses.fields(Measures)}
        self._held: dict[str, Any] = {name: np.empty(tokens, kind) for name, kind in kinds.items()}
        self.filled = 0

    def add(self, part: Measures) -> None:
        """The figures of the next tokens."""
        stop = self.filled + len(part.kl)
        for name, held in self._held.items():
            held[self.filled : stop] = getattr(part, name)
        self.filled = stop

    def scores(self, places: _Places) -> Scores:
        """All of them, by window and position."""
        shape = (-1, len(places.positions))
        measures = Measures(**{name: held.reshape(shape) for name, held in self._held.items()})
        return Scores(measures=measures, positions=places.positions.numpy(), first=places.first)


def _check_reference(measures: Measures) -> None:
    if not np.isfinite(measures.nll_reference).all():
        raise InputError(
            "the reference model gives logits that are not finite, expected numbers",
            hint="check the original checkpoint: nothing can be measured against it",
        )
