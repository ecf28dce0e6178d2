"""Carry an artifact over into another format, with the same integers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from bitwright.api.preflight import refuse_full_disk
from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import BitwrightError, UnsupportedError, UsageError, did_you_mean
from bitwright.core.plan import ArtifactFormat, Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import ConversionRecord, QuantRecord

if TYPE_CHECKING:
    from bitwright.core.plan import TensorPlan
    from bitwright.core.preflight import Preflight
    from bitwright.formats.coded import CodedSource

FORMATS: tuple[str, ...] = get_args(ArtifactFormat)
QUANT_FILE = "quant.json"
ANEW = {
    "compressed-tensors": "--format compressed-tensors --bits 4 --group-size 128",
    "gptq": "--format gptq --bits 4 --group-size 128",
    "gptq_v2": "--format gptq_v2 --bits 4 --group-size 128",
    "awq": "--format awq --group-size 128",
    "bitsandbytes": "--format bitsandbytes --type NF4",
    "gguf": "--format gguf --type Q4_K_M",
    "fp8": "--format fp8 --type FP8_BLOCK",
    "modelopt": "--format modelopt --type NVFP4",
    "safetensors": "--format safetensors --type BF16",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion that is known to be exact, and not written yet."""

    plan: Plan
    place: Path
    out: Path
    source: CodedSource
    made: QuantRecord | None  # the `quant.json` beside the artifact

    def preflight(self) -> Preflight:
        """What writing it will take."""
        from bitwright.planner.preflight import convert_preflight

        return convert_preflight(self.plan, self.out)

    def write(self, progress: Progress = SILENT) -> ConversionRecord:
        """Write and prove. Raises `EnvironmentFault` when the disk has no room for it."""
        from bitwright.pipeline.convert import convert as run

        refuse_full_disk(self.preflight())
        record = run(self.plan, self.source, self.place, self.out, progress=progress)
        if self.made is not None:
            write_document(_as_made(self.made, self.plan, record), self.out / QUANT_FILE)
        return record


def convert(artifact: Path | str, format: str, out: Path, *, progress: Progress = SILENT) -> ConversionRecord:
    """Write `artifact` as `format` into the new folder `out`, and prove that both decode to the same numbers.

    Raises as `plan_conversion` and `Conversion.write`.
    """
    return plan_conversion(artifact, format, out, progress=progress).write(progress)


def plan_conversion(artifact: Path | str, format: str, out: Path, *, progress: Progress = SILENT) -> Conversion:
    """Read all codes of `artifact` and say what each becomes; nothing is written.

    Raises `UnsupportedError` with the reason, and the command that quantizes anew, where the integers do not carry over
    exactly; `UsageError` when `out` is there; `InputError` for a damaged artifact.
    """
    from bitwright.facts.hardware import find_device
    from bitwright.formats.coded import open_codes
    from bitwright.pipeline.convert import planned_tensors
    from bitwright.planner.conversion import conversion_plan

    if format not in FORMATS:
        raise UsageError(f"unknown format `{format}`", hint=did_you_mean(format, list(FORMATS)))
    wanted = cast(ArtifactFormat, format)
    place = _place(Path(artifact))
    _check_out(out)
    made = _made_here(place)
    try:
        source = open_codes(place)
        if source.format == wanted:
            raise UnsupportedError(f"`{artifact}` is {format} already")
        if wanted == "bitsandbytes":
            raise UnsupportedError("bitsandbytes' levels are no integers")
        if wanted == "safetensors":
            raise UnsupportedError("a plain folder holds floats, no integers")
        tensors = planned_tensors(source, wanted, progress)
    except UnsupportedError as error:
        original = made.plan.model.path if made is not None else "MODEL"
        hint = f"quantize the original anew: bitwright quantize {original} --out DIR {ANEW[format]}"
        raise UnsupportedError(f"`{artifact}` cannot become {format} exactly: {error.message}", hint=hint) from error
    plan = conversion_plan(
        source.facts if made is None else made.plan.model,
        tensors,
        find_device("auto"),
        format=wanted,
        type=_type(tensors),
        source=source.format,
        method=made.plan.method if made is not None else "rtn",
        calibration=made.plan.calibration if made is not None else None,
    )
    return Conversion(plan, place, out, source, made)


def _place(path: Path) -> Path:
    from bitwright.formats.sniff import gguf_file, sniff

    return gguf_file(path) if sniff(path) == "gguf" else path


def _check_out(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"`{out}` is there already", hint="choose another --out")


def _made_here(place: Path) -> QuantRecord | None:
    """The `quant.json` beside the artifact, so that the new one can still be held against its original."""
    path = (place.parent if place.is_file() else place) / QUANT_FILE
    if not path.exists():
        return None
    try:
        return read_document(QuantRecord, path)
    except BitwrightError:
        return None  # of another version: the conversion itself needs none


def _as_made(made: QuantRecord, plan: Plan, record: ConversionRecord) -> QuantRecord:
    import msgspec

    return msgspec.structs.replace(made, plan=plan, files=record.files)


def _type(tensors: tuple[TensorPlan, ...]) -> str:
    """The label of most quantized tensors."""
    from collections import Counter

    from bitwright.formats.recode import is_quantized

    labels = Counter(entry.scheme.label for entry in tensors if is_quantized(entry.scheme))
    return labels.most_common(1)[0][0]
