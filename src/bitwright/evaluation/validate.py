"""The proof: an artifact, decoded from disk, against the model it was made from.

Both models see the same windows, block by block (lockstep.py); their predictions are compared token by token (score.py)
and the figures held against the limits of the use case (verdict.py).
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
from bitwright.core.records import ArtifactFile, ValidationRecord, WorstToken
from bitwright.evaluation import verdict
from bitwright.evaluation.beside import beside_notes
from bitwright.evaluation.lockstep import BlockWalker, walk_together
from bitwright.evaluation.score import Scores, score, text_result
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
) -> ValidationRecord:
    """Measure `artifact` against `reference` on all `texts` and judge it.

    `decode` turns token ids into text for the list of worst tokens; `decoder` names the library that decoded the
    artifact. All texts must have windows of one length. Blocks run on `devices`. Raises `MismatchError` when the two
    are different models, `InputError` on token ids outside the vocabulary or a reference that is not finite,
    `UsageError` on too little text.
    """
    started = time.monotonic()
    _check_models(reference, artifact)
    tokens_WT = _all_tokens(texts, reference.facts.vocab)
    beside = beside_notes(reference, artifact)
    here, there = (walker(source, devices=devices) for source in (reference, artifact))
    with full_memory_said(devices):
        walked = walk_together(here, there, tokens_WT, progress=progress, batch=batch)
        scores = score(here, there, walked, tokens_WT, progress=progress)

    results, finite_gates, begin = [], [], 0
    for text in texts:
        part = scores.windows(begin, begin + len(text.tokens))
        begin += len(text.tokens)
        result = text_result(text, part)
        if result:
            results.append(result)
        if not part.sound.all():
            finite_gates.append(verdict.finite_gate(text.name, int((~part.sound).sum())))
    gates = finite_gates + verdict.gates(results, thresholds)
    return ValidationRecord(
        verdict=verdict.overall(gates),
        use_case=thresholds.use_case,
        gates=tuple(gates),
        texts=tuple(results),
        layers=walked.layers,
        worst=_worst(texts, scores, decode),
        reference=reference.facts.path,
        reference_fingerprint=reference.facts.fingerprint,
        artifact=artifact.facts.path,
        artifact_sha256=tuple(file.sha256 for file in files),
        artifact_bytes=sum(file.bytes for file in files),
        decoder=decoder,
        seconds=time.monotonic() - started,
        command=command,
        provenance=msgspec.structs.replace(provenance(), device=label(devices)),
        notes=(*verdict.notes(results, gates), *_rounding_notes(artifact), *beside),
    )


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
