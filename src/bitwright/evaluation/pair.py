"""Reference and artifact, ready to be measured on windows: both together, or the artifact against kept logits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bitwright.core.protocols import Progress, WeightSource
from bitwright.core.records import LayerError
from bitwright.evaluation.lockstep import BlockWalker, walk_alone, walk_together
from bitwright.evaluation.reference_cache import ReferenceCache
from bitwright.evaluation.score import Scores, score, score_stored
from bitwright.tensors.devices import Devices

CACHED = "the reference's logits came from a cache; its blocks did not run, so errors by layer are not shown"


class Pair:
    """Two models on the same devices. The reference is not even built where its logits are kept."""

    def __init__(
        self,
        reference: WeightSource,
        artifact: WeightSource,
        *,
        walker: Callable[..., BlockWalker],
        devices: Devices,
        batch: int,
        cache: ReferenceCache | None,
        progress: Progress,
    ) -> None:
        self._build: Callable[[], BlockWalker] = lambda: walker(reference, devices=devices)
        self._reference: BlockWalker | None = None
        self._artifact = walker(artifact, devices=devices)
        self._batch, self._cache, self._progress = batch, cache, progress
        self.layers: tuple[LayerError, ...] = ()  # of the first windows that both models walked
        self._from_cache = False

    def measure(self, tokens_WT: torch.Tensor) -> Scores:
        """The scores of all windows. Raises `InputError` when the reference is not finite."""
        stored = self._cache.read(tokens_WT) if self._cache else None
        if stored is not None:
            self._from_cache = True
            stream_WTH = walk_alone(self._artifact, tokens_WT, progress=self._progress, batch=self._batch)
            return score_stored(stored, self._artifact, stream_WTH, tokens_WT, progress=self._progress)
        if self._reference is None:
            self._reference = self._build()
        walked = walk_together(self._reference, self._artifact, tokens_WT, progress=self._progress, batch=self._batch)
        self.layers = self.layers or walked.layers
        return score(self._reference, self._artifact, walked, tokens_WT, progress=self._progress, cache=self._cache)

    def notes(self) -> list[str]:
        """What a reader must know of how it was measured."""
        return [CACHED] if self._from_cache and not self.layers else []
