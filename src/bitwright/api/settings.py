"""What is wrong that logits on plain text do not show, for the gates of `validate` and for `doctor`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from bitwright.core.findings import Diagnosis
    from bitwright.core.protocols import Progress, WeightSource
    from bitwright.evaluation.soundness import Soundness
    from bitwright.evaluation.weights import WeightsWatch


def settings_of(
    folder: Path, place: Path, original: WeightSource, decoded: WeightSource, tokens_WT: torch.Tensor
) -> list[Diagnosis]:
    """Hold constants, tokenizer, template, `quantization_config` and stored scales of the cache of the artifact at
    `place` against the reference in `folder`; a few of the windows are walked where the cache has scales."""
    from bitwright.evaluation.cache_scales import cache_findings
    from bitwright.evaluation.settings import setting_findings
    from bitwright.evaluation.soundness import claim_findings
    from bitwright.formats.cache_scales import read_cache_scales
    from bitwright.formats.claims import false_claims
    from bitwright.formats.settings import read_settings

    return [
        *claim_findings(false_claims(place)),
        *setting_findings(original, decoded, read_settings(folder), read_settings(place)),
        *cache_findings(original, read_cache_scales(place), tokens_WT),
    ]


def watched_for_gates(
    folder: Path,
    place: Path,
    original: WeightSource,
    decoded: WeightSource,
    tokens_WT: torch.Tensor,
    progress: Progress,
) -> tuple[WeightsWatch, Callable[[], Soundness]]:
    """The artifact, its tensors compared as they are read, and the gates that are known when all of them were."""
    from bitwright.evaluation.examine import examine_vision
    from bitwright.evaluation.soundness import judge_findings, judge_weights, together
    from bitwright.evaluation.weights import watch

    watched = watch(original, decoded)
    known = [
        judge_findings("settings", settings_of(folder, place, original, decoded, tokens_WT)),
        judge_findings("vision", examine_vision(original, decoded)[1]),
    ]
    return watched, lambda: together([*known, judge_weights(watched.finish(progress))])
