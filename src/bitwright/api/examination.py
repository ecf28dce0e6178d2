"""What is wrong with an artifact, where, and how it is mended."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.api.advice import advice_for
from bitwright.api.proof import check_apart
from bitwright.api.service import locate
from bitwright.api.settings import settings_of
from bitwright.api.texts import SEED, supply_of
from bitwright.core.diagnosis import Advice, Advised, DoctorRecord, OutlierChannels, PartCheck
from bitwright.core.errors import BitwrightError, InputError, UnsupportedError
from bitwright.core.findings import Diagnosis
from bitwright.core.plan import ArtifactFormat
from bitwright.core.protocols import SILENT, Progress, RoundsInputs, WeightSource
from bitwright.core.provenance import provenance
from bitwright.core.records import LayerError

if TYPE_CHECKING:
    from bitwright.calibration.corpora import TokenWindows
    from bitwright.evaluation.weights import WeightsWatch
    from bitwright.tensors.qtensor import QTensor

WINDOWS, LENGTH = 4, 64
ATTENTION = "self_attn"
UNSEEN = "activations were not compared: {}"
ONE_WINDOW = "more bits were not tried: the text fills one window, and two at least give an interval"
DECODER_ALONE = "the artifact holds the decoder alone: vision tower and projector are in another file, not looked at"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What both models did on the text."""

    layers: tuple[LayerError, ...] = ()
    outliers: tuple[OutlierChannels, ...] = ()
    advice: tuple[Advice, ...] = ()
    advised: Advised | None = None


def doctor(
    artifact: Path | str,
    reference: Path | str,
    *,
    lora: Path | str | None = None,
    texts: Sequence[Path | str] = (),
    windows: int = WINDOWS,
    length: int = LENGTH,
    seed: int = SEED,
    advise: bool = False,
    progress: Progress = SILENT,
) -> DoctorRecord:
    """Hold settings, every tensor, and activations on a little text against `reference`, and explain what differs.

    Without `texts` the reference writes a few windows itself. With `advise` a backward pass on the same text says which
    matrices would gain by more bits. Raises `InputError` for what is no artifact and for a
    damaged reference; damage of the artifact is a finding.
    """
    from bitwright.facts.troubleshooting import symptoms, unseen

    started = time.monotonic()
    place, kind = locate(Path(artifact))
    supply = supply_of(reference, lora=lora, texts=texts, length=length, seed=seed, progress=progress)
    check_apart(place, supply.folder)
    folder, original, drawn = supply.folder, supply.original, supply.first(windows)
    findings, decoded = _opened(place, folder, original, drawn)
    notes: list[str] = []
    parts: list[PartCheck] = []
    heard = Heard()
    if decoded is not None:
        watched, parts, seen = _weights(place, original, decoded, progress)
        findings += seen
        if original.facts.vision is not None and decoded.facts.vision is None:
            notes.append(DECODER_ALONE)
        sound = not any(found.severity == "error" for found in findings)
        if advise and len(drawn[0].tokens) < 2:
            notes.append(ONE_WINDOW)
            sound = False
        try:
            heard = _heard(original, decoded, drawn[0], progress, watched if advise and sound else None, kind)
        except BitwrightError as error:
            notes.append(UNSEEN.format(error.message))
    findings = sorted(findings, key=lambda found: found.severity != "error")
    return DoctorRecord(
        artifact=str(place),
        reference=str(folder),
        healthy=not any(found.severity == "error" for found in findings),
        findings=tuple(findings),
        tensors=sum(part.tensors for part in parts),
        parts=tuple(parts),
        layers=heard.layers,
        outliers=heard.outliers,
        advice=heard.advice,
        advised=heard.advised,
        symptoms=symptoms(findings, _figures(decoded, heard.outliers)),
        elsewhere=unseen(kind, images=original.facts.vision is not None) if advise else (),
        notes=tuple(notes),
        seconds=time.monotonic() - started,
        provenance=provenance(),
    )


def _opened(
    place: Path, folder: Path, original: WeightSource, drawn: Sequence[TokenWindows]
) -> tuple[list[Diagnosis], WeightSource | None]:
    """What is wrong beside the weights, and the artifact, where it can be read at all."""
    from bitwright.evaluation.settings import dimension_findings
    from bitwright.formats.sniff import open_source

    try:
        decoded = open_source(place)
    except (InputError, UnsupportedError) as error:
        return _closed(place, original, error), None
    if wrong := dimension_findings(original.facts, decoded.facts):
        return wrong, None
    return settings_of(folder, place, original, decoded, drawn[0].tokens), decoded


def _closed(place: Path, original: WeightSource, error: BitwrightError) -> list[Diagnosis]:
    """Why an artifact cannot be read: by its config and headers, where those can be, else in the reader's words."""
    from bitwright.evaluation.settings import constant_findings
    from bitwright.evaluation.soundness import claim_findings
    from bitwright.facts.doctor_rules import diagnosis
    from bitwright.formats.claims import absent_tensors, bare_config, false_claims

    facts = original.facts
    found: list[Diagnosis] = []
    with contextlib.suppress(InputError):
        found += claim_findings(false_claims(place))
        found += constant_findings(original.config, bare_config(place), facts.family)
        found += [
            diagnosis("missing-tensor", name, architecture=facts.architecture)
            for name in absent_tensors(place, facts.all_tensors)
        ]
    return found or [diagnosis("unreadable", place.name, message=error.message)]


def _weights(
    place: Path, original: WeightSource, decoded: WeightSource, progress: Progress
) -> tuple[WeightsWatch, list[PartCheck], list[Diagnosis]]:
    """Tensors compared, path by path, and findings about them."""
    from bitwright.evaluation.examine import examine, examine_vision, part_checks, shared_flaws
    from bitwright.formats.claims import gptq_version
    from bitwright.formats.packed.awq_reader import AwqSource
    from bitwright.formats.packed.gptq_reader import GptqSource

    def coded(name: str) -> QTensor | None:
        if not isinstance(decoded, GptqSource | AwqSource) or not decoded.is_packed(name):
            return None
        module = name.removesuffix(".weight")
        scheme = decoded.scheme(module)
        return decoded.codes(module, scheme) if scheme is not None else None

    watched, check, found = examine(original, decoded, coded=coded, progress=progress)
    beside, vision = examine_vision(original, decoded)
    parts = [*part_checks("decoder", check.tensors), *beside]
    return watched, parts, [*shared_flaws(found, watched, coded, gptq_version(place)), *vision]


def _heard(
    original: WeightSource,
    decoded: WeightSource,
    text: TokenWindows,
    progress: Progress,
    watched: WeightsWatch | None,
    kind: ArtifactFormat,
) -> Heard:
    """Both models on the text; advice where `watched` is given."""
    from bitwright.evaluation.lockstep import walk_together
    from bitwright.evaluation.loudness import Listening
    from bitwright.modeling.walk import Walker

    walkers = Walker(original), Walker(decoded)
    listening = Listening(walkers[0])
    walked = walk_together(listening, walkers[1], text.tokens, progress=progress)
    heard = Heard(layers=walked.layers, outliers=tuple(listening.found))
    if watched is None:
        return heard
    advice, advised = advice_for(original, watched, walkers, walked, text, kind, progress)
    return dataclasses.replace(heard, advice=advice, advised=advised)


def _figures(decoded: WeightSource | None, outliers: Sequence[OutlierChannels]) -> dict[str, float]:
    """What symptoms are looked up by, beside findings."""
    if decoded is None:
        return {}
    bits = [
        8 * tensor.bytes / (tensor.shape[0] * tensor.shape[1])
        for tensor in decoded.facts.tensors
        if ATTENTION in tensor.name and len(tensor.shape) == 2
    ]
    found = {"attention": min(bits)} if bits else {}
    modules = [tensor.name.removesuffix(".weight") for tensor in decoded.facts.tensors if len(tensor.shape) == 2]
    if isinstance(decoded, RoundsInputs) and any(decoded.input_rounding(module) for module in modules):
        found["loudest"] = max((row.loudest for row in outliers), default=0.0)
    return found
