"""What is this file or folder: types, sizes, and the verdict that it carries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from bitwright.core.carried import Carried, CarriedSummary, State, weights_sha256
from bitwright.core.plan import ArtifactFormat, ModelFacts, TensorFacts
from bitwright.core.records import Inspection, TypeShare

WIDTHS = (8, 4, 3, 2)  # named widths; what lies between is scales


NO_VERDICT = "none: this artifact was not judged, or its verdict was taken out"
UNREADABLE = "the verdict in it cannot be read"


def inspect(path: Path | str, *, check: bool = True) -> Inspection:
    """Describe a checkpoint or an artifact by its headers, and hold the verdict that it carries against its bytes.

    With `check`, weights are hashed where there is a verdict; without, headers are all that is read. Raises
    `InputError` on damage, `UnsupportedError`.
    """
    from bitwright.formats.folders.model_card import has_verdict
    from bitwright.formats.sniff import gguf_file, sniff

    match sniff(Path(path)):
        case "gguf":
            return _gguf(gguf_file(Path(path)), check)
        case "compressed-tensors" | "gptq" | "awq" | "bitsandbytes" | "fp8" | "modelopt" as kind:
            return _packed(Path(path), kind, check)
        case "checkpoint":
            from bitwright.facts.model import model_facts

            facts = model_facts(Path(path))
            found = _from_facts(facts, Path(path), "checkpoint", shares(facts.all_tensors))
            return _with_card(found, Path(path), "safetensors", check) if has_verdict(Path(path)) else found


def _gguf(path: Path, check: bool) -> Inspection:
    from bitwright.formats.ggml.reader import describe

    found = describe(path)
    summary = found.summary if found.summary and found.summary != "{}" else None
    return Inspection(
        path=found.path,
        kind="gguf",
        architecture=found.architecture,
        parameters=found.parameters,
        bytes=found.data_bytes,
        bits_per_weight=found.bits_per_weight,
        types=tuple(
            TypeShare(type=row.type, tensors=row.tensors, parameters=row.parameters, bytes=row.bytes)
            for row in found.types
        ),
        metadata=found.metadata,
        summary=summary,
        carried=_carried(summary, path, "gguf", check),
    )


def _packed(folder: Path, kind: ArtifactFormat, check: bool) -> Inspection:
    from bitwright.formats.sniff import open_source

    facts = open_source(folder).facts
    return _with_card(_from_facts(facts, folder, kind, shares(facts.all_tensors)), folder, kind, check)


def _with_card(found: Inspection, folder: Path, kind: ArtifactFormat, check: bool) -> Inspection:
    """The description with the verdict in the model card."""
    from bitwright.formats.folders.model_card import read_data, read_summary

    summary = read_summary(folder)
    data = read_data(folder) or summary  # a card of an older version holds no data, and cannot be read as such
    return msgspec.structs.replace(found, summary=summary, carried=_carried(data, folder, kind, check))


def _carried(summary: str | None, place: Path, kind: ArtifactFormat, check: bool) -> Carried:
    """The verdict held against the bytes."""
    from bitwright.api.proof import files_of
    from bitwright.formats.settings_hash import settings_sha256

    if summary is None:
        return Carried(verdict=None, said=NO_VERDICT)
    try:
        told = msgspec.json.decode(summary, type=CarriedSummary)
    except msgspec.DecodeError:
        return Carried(verdict=None, said=UNREADABLE)
    weights: State = "unknown"
    if check and told.weights_sha256:
        found = weights_sha256(file.sha256 for file in files_of(place, kind))
        weights = "unchanged" if found == told.weights_sha256 else "changed"
    settings: State = "unknown"
    if told.settings_sha256:
        settings = "unchanged" if settings_sha256(place, kind) == told.settings_sha256 else "changed"
    return Carried(
        verdict=told.verdict, use_case=told.use_case, created=told.created, weights=weights, settings=settings,
        said=_said(told),
    )  # fmt: skip


def _said(told: CarriedSummary) -> str:
    """Verdict and figures of the text that suffers most."""
    if not told.texts:
        return f"{told.verdict} for {told.use_case}"
    worst = max(told.texts, key=lambda text: text.kl_mean[0])
    kl, low, high = worst.kl_mean
    others = f" (the worst of {len(told.texts)} texts)" if len(told.texts) > 1 else ""
    return (
        f"{told.verdict} for {told.use_case}: mean KL {kl:.4g} ({low:.4g} to {high:.4g}) nats, perplexity "
        f"{worst.ppl_delta[0]:+.4g}, same top token {worst.top1:.1%} on {worst.name}{others}"
    )


def _from_facts(facts: ModelFacts, path: Path, kind: str, types: tuple[TypeShare, ...]) -> Inspection:
    return Inspection(
        path=str(path),
        kind=kind,
        architecture=facts.architecture,
        parameters=facts.parameters,
        bytes=facts.bytes,
        bits_per_weight=8 * facts.bytes / facts.parameters,
        types=types,
        metadata={
            "family": facts.family,
            "layers": facts.layers,
            "hidden": facts.hidden,
            "intermediate": facts.intermediate,
            "heads": facts.heads,
            "kv_heads": facts.kv_heads,
            "head_dim": facts.head_dim,
            "vocab": facts.vocab,
            "context": facts.context,
            "tied": facts.tied,
            "fingerprint": facts.fingerprint,
            **_parts(facts),
        },
    )


def _parts(facts: ModelFacts) -> dict[str, str | int | float | bool]:
    """Bytes of the parts of a vision-language model."""
    if facts.vision is None:
        return {}
    held = {"decoder": facts.tensors, "vision tower": facts.vision.tower, "projector": facts.vision.projector}
    return {f"{part} bytes": sum(tensor.bytes for tensor in tensors) for part, tensors in held.items()}


def shares(tensors: Iterable[TensorFacts]) -> tuple[TypeShare, ...]:
    """Tensors counted by stored type, the largest share of parameters first."""
    held: dict[str, list[TensorFacts]] = {}
    for tensor in tensors:
        held.setdefault(_stored_type(tensor), []).append(tensor)
    found = [
        TypeShare(
            type=kind,
            tensors=len(group),
            parameters=sum(_count(tensor.shape) for tensor in group),
            bytes=sum(tensor.bytes for tensor in group),
        )
        for kind, group in held.items()
    ]
    return tuple(sorted(found, key=lambda share: -share.parameters))


def _stored_type(tensor: TensorFacts) -> str:
    """The dtype, or the width of the codes where fewer bytes are stored than the dtype would take (its scales')."""
    bits = 8 * tensor.bytes / _count(tensor.shape)
    if bits >= 16:
        return tensor.dtype
    return f"packed {next((width for width in WIDTHS if bits >= width), WIDTHS[-1])}-bit"


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
