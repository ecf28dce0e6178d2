"""Stored scales of an 8-bit cache held against the keys and values of the reference.

An engine divides by the scale before it rounds to E4M3, which reaches to 448: a scale that is too small cuts the
largest keys off, one that is far too large leaves their small ones to the subnormals. In between a float does not care,
so only what lies far outside is wrong. Observers may cut a peak on purpose (percentile, entropy), hence the room below.

Not here: reading the scales (formats/cache_scales.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from bitwright.core.findings import Diagnosis
from bitwright.core.protocols import WeightSource
from bitwright.facts.cache_scales import KEY_SCALE
from bitwright.facts.doctor_rules import diagnosis
from bitwright.modeling.cache_peaks import E4M3_LARGEST, CachePeaks
from bitwright.modeling.walk import Walker

LEAST, MOST = 0.2, 100.0  # reach of a scale over the peak that is seen
WINDOWS = 4  # peaks differ little between windows: the first token makes most of them
LAYER = re.compile(r"layers\.(\d+)\.")


def cache_findings(reference: WeightSource, scales: Mapping[str, float], tokens_WT: torch.Tensor) -> list[Diagnosis]:
    """Walk a few windows through the reference and compare; nothing is walked where no scale is stored."""
    if not scales:
        return []
    walker = Walker(reference)
    hidden = walker.embed(tokens_WT[:WINDOWS])
    found = []
    for layer in range(walker.layers):
        walker.cache_peaks = CachePeaks()
        hidden = walker.run_block(layer, hidden)
        for name, scale in scales.items():
            place = LAYER.search(name)
            if place is None or int(place[1]) != layer:
                continue
            keys = name.endswith(KEY_SCALE)
            peak = walker.cache_peaks.key if keys else walker.cache_peaks.value
            reach = scale * E4M3_LARGEST
            if not LEAST * peak <= reach <= MOST * peak:
                words = {"reach": f"{reach:.4g}", "peak": f"{peak:.4g}", "right": f"{peak / E4M3_LARGEST:.4g}"}
                evidence = {"scale": scale, "reach": reach, "peak": peak}
                what = "keys" if keys else "values"
                found.append(
                    diagnosis("cache-scale", name, part="settings", name=name, what=what, evidence=evidence, **words)
                )
    return found
