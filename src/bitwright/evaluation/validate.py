"""The proof: an artifact, decoded from disk, against the model it was made from.

Both models see the same windows, block by block (lockstep.py); their predictions are compared token by token (score.py)
and the figures held against the limits of a profile (verdict.py), more than once where windows are added until every
gate is decided (judging.py).
Not here: decoding of artifacts (formats), which text (calibration), the page for people (report).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import torch

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.errors import InputError, MismatchError, UsageError
from bitwright.core.protocols import SILENT, Progress, RoundsInputs, WeightSource
from bitwright.core.provenance import provenance
from bitwright.core.records import ArtifactFile, Floors, ValidationRecord, WorstToken
from bitwright.evaluation import verdict
from bitwright.evaluation.beside import beside_notes
from bitwright.evaluation.judging import judge_texts
from bitwright.evaluation.lockstep import BlockWalker
from bitwright.evaluation.pair import Pair
from bitwright.evaluation.reference_cache import ReferenceCache
from bitwright.evaluation.sampling import Sampling
from bitwright.evaluation.score import Scores, joined
from bitwright.evaluation.soundness import Soundness
from bitwright.evaluation.stats import MIN_WINDOWS
from bitwright.facts.thresholds import Thresholds
from bitwright.modeling.walk import Walker
from bitwright.tensors.devices import CPU, Devices, full_memory_said, label

SAME = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab")
MIN_LENGTH = 8
WORST = 20
CONTEXT = 12  # tokens shown before a departure

Decode = Callable[[list[int]], str]


def validate(
    reference: WeightSource,
    artifact: WeightSource,
    texts: Sequence[TokenWindows],
    *,
    thresholds: Thresholds,
    decode: Decode,
    decoder: str,
    files: Sequence[ArtifactFile],
    command: str,
    progress: Progress = SILENT,
    batch: int = 4,
    walker: Callable[..., BlockWalker] = Walker,
    devices: Devices = (CPU,),
    sampling: Sampling | None = None,
    cache: ReferenceCache | None = None,
    floors: Callable[[torch.Tensor], Floors] | None = None,
    soundness: Callable[[], Soundness] = Soundness,
) -> ValidationRecord:
    """Measure `artifact` against `reference` on all `texts` and judge it, with the gates that `soundness` finds failed
    once the artifact was read.

    `decode` turns token ids into text for the list of worst tokens; `decoder` names the library that decoded the
    artifact. All texts must have windows of one length. Blocks run on `devices`. With `sampling`, windows are added
    until every gate is decided; with a `cache`, the reference's logits are kept and taken from there. `floors` measures
    the reference against itself on given tokens. Raises `MismatchError` when the two are different models, `InputError`
    on token ids outside the vocabulary or a reference that is not finite, `UsageError` on too little text.
    """
    started = time.monotonic()
    _check_models(reference, artifact)
    tokens_WT = _all_tokens(texts, reference.facts.vocab)
    with full_memory_said(devices):
        floor = floors(tokens_WT) if floors else None
        pair = Pair(reference, artifact, walker=walker, devices=devices, batch=batch, cache=cache, progress=progress)
        judged = judge_texts(pair, texts, thresholds, sampling or Sampling(looks=(len(tokens_WT),), more=_no_more))
    beyond = soundness()
    gates, others = [*beyond.gates, *judged.gates], (*beside_notes(reference, artifact), *beyond.notes)
    return ValidationRecord(
        verdict=verdict.overall(gates),
        use_case=thresholds.use_case,
        profile=thresholds.name,
        gates=tuple(gates),
        texts=tuple(judged.results),
        layers=pair.layers,
        worst=_worst(judged.texts, joined(judged.scores), decode),
        reference=reference.facts.path,
        reference_fingerprint=reference.facts.fingerprint,
        artifact=artifact.facts.path,
        artifact_sha256=tuple(file.sha256 for file in files),
        artifact_bytes=sum(file.bytes for file in files),
        decoder=decoder,
        seconds=time.monotonic() - started,
        command=command,
        provenance=msgspec.structs.replace(provenance(), device=label(devices)),
        floors=floor,
        looks=judged.looks,
        confidence=judged.confidence,
        findings=beyond.findings,
        notes=(*verdict.notes(judged.results, gates, floor), *_rounding_notes(artifact), *others, *pair.notes()),
    )


def _no_more(text: int, start: int, stop: int) -> TokenWindows | None:
    return None


def _rounding_notes(artifact: WeightSource) -> list[str]:
    """What the walk did to inputs, because a verdict on weights alone would be another one."""
    if not isinstance(artifact, RoundsInputs):
        return []
    modules = (name.removesuffix(".weight") for name in artifact.names() if name.endswith(".weight"))
    found = {rounding.scheme for module in modules if (rounding := artifact.input_rounding(module)) is not None}
    return [
        f"inputs of linears were rounded as engines round them: {scheme.element} per {scheme.scaling}, "
        f"{'dynamic' if scheme.dynamic else 'static'}"
        for scheme in sorted(found, key=lambda scheme: scheme.label)
    ]


def _check_models(reference: WeightSource, artifact: WeightSource) -> None:
    for field in SAME:
        expected, found = getattr(reference.facts, field), getattr(artifact.facts, field)
        if expected != found:
            raise MismatchError(
                f"`{artifact.facts.path}` is not made from `{reference.facts.path}`: "
                f"{field} is {found}, expected {expected}",
                hint="give --reference the model that the artifact was made from",
            )


def _all_tokens(texts: Sequence[TokenWindows], vocabulary: int) -> torch.Tensor:
    """All windows [W, T], after checks that cost nothing."""
    if not texts:
        raise UsageError("no text to validate on", hint="give --text FILE")
    if len({text.name for text in texts}) < len(texts):
        raise UsageError("two validation texts have the same name", hint="rename one: results are listed by name")
    length = texts[0].tokens.shape[1]
    for text in texts:
        windows = text.tokens.shape[0]
        if windows < MIN_WINDOWS:
            raise UsageError(
                f"text `{text.name}` gives {windows} windows, at least {MIN_WINDOWS} are needed for an interval",
                hint="give more text, or shorter windows with --length",
            )
        if text.tokens.shape[1] != length or length < MIN_LENGTH:
            raise UsageError(
                f"windows of `{text.name}` hold {text.tokens.shape[1]} tokens, expected {max(length, MIN_LENGTH)}",
                hint=f"use one --length of at least {MIN_LENGTH} for all texts",
            )
        low, high = int(text.tokens.min()), int(text.tokens.max())
        if low < 0 or high >= vocabulary:
            raise InputError(
                f"text `{text.name}` holds token id {low if low < 0 else high}, expected 0 to {vocabulary - 1}"
            )
    return torch.cat([text.tokens for text in texts])


def _worst(texts: Sequence[TokenWindows], scores: Scores, decode: Decode) -> tuple[WorstToken, ...]:
    """The scored tokens with the largest KL, in their context."""
    kl_WP = np.where(scores.measures.finite & scores.scored, scores.measures.kl, -1.0)
    order = np.argsort(-kl_WP, axis=None, kind="stable")[:WORST]
    places = [(text, window) for text in texts for window in range(len(text.tokens))]
    found = []
    for row, column in zip(*np.unravel_index(order, kl_WP.shape), strict=True):
        if kl_WP[row, column] < 0:
            break
        text, window = places[row]
        position = int(scores.positions[column])
        ids: list[int] = text.tokens[window].tolist()
        found.append(
            WorstToken(
                window=window,
                position=position,
                context=decode(ids[max(0, position + 1 - CONTEXT) : position + 1]),
                reference_token=decode([int(scores.measures.top_reference[row, column])]),
                artifact_token=decode([int(scores.measures.top_artifact[row, column])]),
                kl=float(kl_WP[row, column]),
                text=text.name,
                next_token=decode([ids[position + 1]]),
            )
        )
    return tuple(found)
