"""Texts measured and judged, look after look, until nothing is left to decide.

Not here: how sure each look is (sampling.py), one look's measures (pair.py, figures.py) and gates (verdict.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch

from bitwright.calibration.corpora import TokenWindows, make_windows
from bitwright.core.records import Gate, TextResult
from bitwright.evaluation import verdict
from bitwright.evaluation.figures import text_result
from bitwright.evaluation.pair import Pair
from bitwright.evaluation.sampling import FEWEST_MORE, Sampling, affordable, undecided
from bitwright.evaluation.score import Scores, joined
from bitwright.facts.thresholds import Thresholds


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Texts as far as they were read, the scores of their windows, and what came of them."""

    texts: list[TokenWindows]
    scores: list[Scores]
    results: list[TextResult]
    gates: list[Gate]
    looks: int
    confidence: float


def judge_texts(pair: Pair, texts: Sequence[TokenWindows], profile: Thresholds, sampling: Sampling) -> Judged:
    """Measure `texts`, and add windows to those that have a gate to decide, as `sampling` says."""
    started = time.monotonic()
    known, scores = list(texts), _measured(pair, texts)
    judged = _look(known, scores, profile, sampling, looks=1, before=[])
    for looks, windows in enumerate(sampling.looks[1:], 2):
        drawn = _draw(known, undecided(judged.gates), windows, sampling, started)
        if not drawn:
            break
        for index, part in zip(drawn, _measured(pair, list(drawn.values())), strict=True):
            scores[index] = joined([scores[index], part])
            both = torch.cat([known[index].tokens, drawn[index].tokens])
            known[index] = make_windows(known[index].name, both)
        judged = _look(known, scores, profile, sampling, looks=looks, before=judged.gates)
    return judged


def _measured(pair: Pair, texts: Sequence[TokenWindows]) -> list[Scores]:
    """One walk for all texts."""
    scores = pair.measure(torch.cat([text.tokens for text in texts]))
    ends = [sum(len(text.tokens) for text in texts[: index + 1]) for index in range(len(texts))]
    return [scores.windows(end - len(text.tokens), end) for text, end in zip(texts, ends, strict=True)]


def _draw(
    known: Sequence[TokenWindows], wanting: set[str], windows: int, sampling: Sampling, started: float
) -> dict[int, TokenWindows]:
    """The next windows of each text that wants them, up to `windows` in all or what the budget pays for."""
    open_texts = [index for index, text in enumerate(known) if text.name in wanting]
    if not open_texts:
        return {}
    measured = sum(len(text.tokens) for text in known)
    found = {}
    for index in open_texts:
        have = len(known[index].tokens)
        more = affordable(windows - have, len(open_texts), measured, started, sampling.budget_seconds)
        if more < min(FEWEST_MORE, windows - have) or more < 1:
            continue
        part = sampling.more(index, have, have + more)
        if part is not None:
            found[index] = part
    return found


def _look(
    known: list[TokenWindows],
    scores: list[Scores],
    profile: Thresholds,
    sampling: Sampling,
    *,
    looks: int,
    before: list[Gate],
) -> Judged:
    found = [text_result(text, part, confidence=sampling.confidence) for text, part in zip(known, scores, strict=True)]
    results = [result for result in found if result is not None]
    bad = [
        verdict.finite_gate(text.name, int((~part.sound).sum()))
        for text, part in zip(known, scores, strict=True)
        if not part.sound.all()
    ]
    gates = bad + verdict.narrowed(verdict.gates(results, profile), before)
    return Judged(
        texts=list(known),
        scores=list(scores),
        results=results,
        gates=gates,
        looks=looks,
        confidence=sampling.confidence,
    )
