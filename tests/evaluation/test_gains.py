"""What a trial saves is what whole walks of changed models give; trials leave the artifact as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import DictSource, source, text, whole_model

from bitwright.core.protocols import SILENT
from bitwright.evaluation.gains import gains
from bitwright.evaluation.lockstep import walk_together
from bitwright.evaluation.score import score
from bitwright.evaluation.weights import watch
from bitwright.modeling.walk import Walker

FIRST, LAST = "model.layers.0.mlp.down_proj.weight", "model.layers.1.self_attn.v_proj.weight"
TRIALS = [[FIRST], [LAST], [FIRST, LAST]]
TOKENS = text(windows=6).tokens


def kl_of(here: DictSource, there: DictSource) -> np.ndarray:
    """Mean KL of every window, by two whole walks."""
    walkers = Walker(here), Walker(there)
    walked = walk_together(*walkers, TOKENS, progress=SILENT)
    found = score(*walkers, walked, TOKENS, progress=SILENT)
    return np.asarray(found.measures.kl[:, found.scored].mean(axis=1))


def test_trials_are_whole_walks_of_mended_models() -> None:
    model = whole_model()
    here, there = source(model), source(model, noise=0.05)
    watched, walkers = watch(here, there), (Walker(here), Walker(there))
    walked = walk_together(*walkers, TOKENS, progress=SILENT)
    found = gains(*walkers, walked, TOKENS, TRIALS, lambda name: watched.nearer(name, 0.75))
    before = kl_of(here, there)
    for trial, gain in zip(TRIALS, found, strict=True):
        mended = {name: torch.lerp(there.weights[name], here.weights[name], 0.75) for name in trial}
        after = kl_of(here, DictSource(there.weights | mended, there.config, "mended"))
        assert gain.value == pytest.approx(float((before - after).mean()), rel=1e-5)
        assert gain.low < gain.value < gain.high
    assert found[2].value > max(found[0].value, found[1].value)


def test_all_of_an_error_taken_away_is_the_reference() -> None:
    model = whole_model()
    here, there = source(model), source(model, noise=0.05)
    watched = watch(here, there)
    names = [name for name in here.names() if "proj" in name]
    walkers = Walker(here), Walker(there)
    walked = walk_together(*walkers, TOKENS, progress=SILENT)
    found = gains(*walkers, walked, TOKENS, [names], lambda name: watched.nearer(name, 1.0))
    assert found[0].value == pytest.approx(float(kl_of(here, there).mean()), rel=1e-6)
