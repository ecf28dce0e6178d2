"""The largest keys and values that a block hands to its cache: after norms and rotation, before heads are repeated.

A transformers block that is given a cache calls `update` with what an engine would store, and goes on with what it gets
back. So an object with that one method sees it in every family, and changes nothing.

Source: transformers 5.23, models/*/modeling_*.py (`past_key_values.update`).
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

E4M3_LARGEST = 448.0


class Watches(Protocol):
    """An observer (calibration/observers.py)."""

    def add(self, values: Any) -> None:
        """Count an array."""

    def peak(self, element: str) -> float:
        """The magnitude that a scale should reach to."""
        ...


class CachePeaks:
    """Stands in for a cache. `key` and `value` are the largest magnitudes so far.

    `watches` on keys and on values, where they are given, say what scales reach to instead.
    """

    def __init__(self, watches: tuple[Watches, Watches] | None = None) -> None:
        self.key = self.value = 0.0
        self._watches = watches

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *others: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Called by the attention layer: both [W, heads, T, width]."""
        self.key = max(self.key, float(keys.abs().max()))
        self.value = max(self.value, float(values.abs().max()))
        for watch, seen in zip(self._watches or (), (keys, values), strict=False):
            watch.add(seen.detach().float().cpu().numpy())
        return keys, values

    def scales(self) -> tuple[float, float]:
        """What an engine divides keys and values by before it rounds them to E4M3."""
        if self._watches is None:
            return _scale(self.key), _scale(self.value)
        key, value = (_scale(watch.peak("e4m3")) for watch in self._watches)
        return key, value


def _scale(peak: float) -> float:
    return peak / E4M3_LARGEST if peak > 0 else 1.0
