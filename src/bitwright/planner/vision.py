"""What becomes of the parts of a vision-language model, and why: tower and projector beside a quantized decoder.

Both keep their floats unless something else is asked for. The linears of either may take 8-bit weights, one scale per
output channel, with inputs in 16 bits; fewer bits have to be forced, because the damage does not show in text: a model
with such a tower speaks well of another picture.

Not here: which tensors are which (facts/vision.py), the decoder (tensors.py).
Sources: deployment guide §08 and §12; decision framework handbook, failure modes of vision-language models.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, cast, get_args

import msgspec

from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.plan import ArtifactFormat, ModelFacts, Reason, TensorFacts, TensorPlan
from bitwright.core.schemes import GROUP_SIZES, FloatScheme, IntScheme
from bitwright.core.units import format_bytes
from bitwright.facts.stored_tensors import stored_parts
from bitwright.facts.vision import is_part_linear

PartType = Literal["float", "int8", "int4"]
PART_TYPES: tuple[PartType, ...] = get_args(PartType)
FORCED: tuple[PartType, ...] = ("int4",)
FLOATS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
GUIDE = "deployment guide §08"
TOWER, PROJECTOR = "vision tower", "projector"
_FLOAT_BECAUSE = {
    TOWER: "activations of vision encoders have extreme outliers, and what is lost here no text shows",
    PROJECTOR: "all that the decoder learns of an image passes through it, and it is small",
}
_INT8_BECAUSE = "it was asked for; weights of 8 bits per output channel, inputs in 16: the least that the guide allows"
_INT4_BECAUSE = "it was forced, against the rule that 4 bits are never used here in production"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PartTypes:
    """What was asked for; `None`: nothing, which keeps the floats."""

    tower: PartType | None = None
    projector: PartType | None = None

    def __bool__(self) -> bool:
        return self.tower is not None or self.projector is not None


KEPT = PartTypes()


def part_types(vision: str | None, projector: str | None, *, few_bits: bool) -> PartTypes:
    """Check words against words. Raises `UsageError` for an unknown one, and for few bits unless `few_bits`."""
    for flag, part, name in (("--vision", TOWER, vision), ("--projector", PROJECTOR, projector)):
        if name is not None and name not in PART_TYPES:
            raise UsageError(f"unknown type `{name}` for {flag}", hint=did_you_mean(name, [*PART_TYPES]))
        if name in FORCED and not few_bits:
            raise UsageError(
                f"{flag} {name} leaves the {part} fewer than 8 bits, which makes models describe other images",
                hint=f"use {flag} int8 or {flag} float; --force does it all the same",
            )
    return PartTypes(tower=cast("PartType | None", vision), projector=cast("PartType | None", projector))


def check_parts(facts: ModelFacts, format: ArtifactFormat, parts: PartTypes, use_case: str) -> None:
    """Refuse what the model or the format has no place for. Raises `UsageError`."""
    if facts.vision is None and (parts or use_case == "vlm"):
        asked = "--vision and --projector concern" if parts else "--use-case vlm is for"
        raise UsageError(f"{asked} vision-language models, {facts.architecture} is none", hint="leave it away")
    if facts.vision is not None and parts and format != "compressed-tensors":
        raise UsageError(
            f"--vision and --projector concern compressed-tensors, the format here is {format}",
            hint="use --format compressed-tensors",
        )


def vision_tensors(facts: ModelFacts, parts: PartTypes) -> tuple[TensorPlan, ...]:
    """Every tensor of tower and projector; none for other models."""
    if facts.vision is None:
        return ()
    tower = (_planned(tensor, TOWER, parts.tower) for tensor in facts.vision.tower)
    projector = (_planned(tensor, PROJECTOR, parts.projector) for tensor in facts.vision.projector)
    return (*tower, *projector)


def vision_reasons(facts: ModelFacts, format: ArtifactFormat, label: str, parts: PartTypes) -> list[Reason]:
    """Why each part becomes what it becomes; empty for other models, and where all is cast alike."""
    if facts.vision is None or format == "safetensors":
        return []
    decoder = sum(tensor.bytes for tensor in facts.tensors)
    said = [
        Reason(
            choice=f"decoder {label}",
            because=f"it is a plain language model, bears quantization as one, and holds {decoder / facts.bytes:.0%} "
            "of the bytes",
            source=GUIDE,
        )
    ]
    if format == "gguf":
        because = "llama.cpp reads vision tower and projector from a file of their own, which is not written here"
        return [*said, Reason(choice="decoder alone", because=because, source="llama.cpp docs/multimodal.md")]
    for part, held, asked in (
        (TOWER, facts.vision.tower, parts.tower), (PROJECTOR, facts.vision.projector, parts.projector)
    ):  # fmt: skip
        because = {"int8": _INT8_BECAUSE, "int4": _INT4_BECAUSE}.get(asked or "float", _FLOAT_BECAUSE[part])
        size = format_bytes(sum(tensor.bytes for tensor in held))
        kept = "/".join(sorted({tensor.dtype for tensor in held}))
        name = kept if asked in (None, "float") else str(asked).upper()
        said.append(Reason(choice=f"{part} {name}", because=f"{because} ({size} of {kept})", source=GUIDE))
    return said


def vision_warnings(facts: ModelFacts, format: ArtifactFormat, parts: PartTypes) -> list[str]:
    """What to know before serving; empty for other models."""
    if facts.vision is None:
        return []
    if format == "gguf":
        return ["this GGUF file is the decoder alone and reads text: for images, make the mmproj file with llama.cpp"]
    forced = [part for part, name in ((TOWER, parts.tower), (PROJECTOR, parts.projector)) if name in FORCED]
    return [
        f"the {part} has fewer than 8 bits: a verdict on text does not see what it does to images" for part in forced
    ]


def _planned(tensor: TensorFacts, part: str, name: PartType | None) -> TensorPlan:
    dtype = FLOATS[tensor.dtype]
    scheme: FloatScheme | IntScheme = FloatScheme(dtype=dtype)  # type: ignore[arg-type]  # one of three
    reason = f"{part}: {_FLOAT_BECAUSE[part]}"
    if name not in (None, "float"):
        reason = f"{part}: no linear that engines run in few bits"
        if is_part_linear(tensor):
            bits = 8 if name == "int8" else 4
            group = (
                None if bits == 8 else next((size for size in GROUP_SIZES[::-1] if not tensor.shape[1] % size), None)
            )
            scheme = IntScheme(bits=bits, group_size=group, scale_dtype=dtype)  # type: ignore[arg-type]
            reason = f"{part}: {scheme.label} was asked for"
    entry = TensorPlan(
        name=tensor.name, stored_name=tensor.stored_name, shape=tensor.shape, scheme=scheme,
        bytes=math.prod(tensor.shape), reason=reason,
    )  # fmt: skip
    return msgspec.structs.replace(entry, bytes=sum(part.bytes for part in stored_parts(entry)))
