"""What is this file or folder: types, sizes, and the verdict that it carries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bitwright.core.plan import ModelFacts, TensorFacts
from bitwright.core.records import Inspection, TypeShare

WIDTHS = (8, 4, 3, 2)  # named widths; what lies between is scales


def inspect(path: Path | str) -> Inspection:
    """Describe a checkpoint or an artifact by its headers. Raises `InputError` on damage, `UnsupportedError`."""
    from bitwright.formats.sniff import gguf_file, sniff

    match sniff(Path(path)):
        case "gguf":
            return _gguf(gguf_file(Path(path)))
        case "compressed-tensors" | "gptq" | "awq" | "bitsandbytes" | "fp8" | "modelopt" as kind:
            return _packed(Path(path), kind)
        case "checkpoint":
            from bitwright.facts.model import model_facts

            facts = model_facts(Path(path))
            return _from_facts(facts, Path(path), "checkpoint", shares(facts.all_tensors), None)


def _gguf(path: Path) -> Inspection:
    from bitwright.formats.ggml.reader import describe

    found = describe(path)
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
        summary=found.summary if found.summary and found.summary != "{}" else None,
    )


def _packed(folder: Path, kind: str) -> Inspection:
    from bitwright.formats.folders.model_card import read_summary
    from bitwright.formats.sniff import open_source

    facts = open_source(folder).facts
    return _from_facts(facts, folder, kind, shares(facts.all_tensors), read_summary(folder))


def _from_facts(
    facts: ModelFacts, path: Path, kind: str, types: tuple[TypeShare, ...], summary: str | None
) -> Inspection:
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
        summary=summary,
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
