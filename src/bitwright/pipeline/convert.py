"""An artifact in another format with the same integers, and the proof that both decode to the same numbers.

First every matrix is carried over in thought: where one has no place in the format, or a scale would not survive, the
conversion is refused before anything is written. Then the files are written beside the target, both artifacts are
opened by the readers that `validate` uses (foreign libraries wherever one runs), and every tensor of both is compared
in float32, bit for bit (but for the sign of zeros). Only then does the folder take its name. Where NVFP4 changes from a
factor that is divided by to one that multiplies, its reciprocal is rounded: there values may differ by `RECIPROCAL`.

One matrix is in memory at a time.

An embedding or a head that GGUF holds as codes goes into a folder as its values in F32, which hold them exactly: no
loader of these formats takes integers there.

Not here: what goes where (formats/recode.py), the plan (planner/conversion.py).
"""

from __future__ import annotations

import dataclasses
import math
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from bitwright.core.atomic import sha256_file, write_bytes
from bitwright.core.documents import write_document
from bitwright.core.errors import MismatchError, UnsupportedError, UsageError, from_os_error
from bitwright.core.plan import ArtifactFormat, Plan, TensorPlan
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.core.provenance import provenance
from bitwright.core.records import ArtifactFile, ConversionRecord
from bitwright.core.schemes import FloatScheme, GgmlScheme, MinifloatScheme, WeightScheme
from bitwright.facts.cache_scales import is_cache_scale
from bitwright.facts.checkpoint import read_checkpoint
from bitwright.facts.families import FAMILIES, gguf_name, is_block_linear
from bitwright.facts.packed_tensors import parts_of
from bitwright.formats.coded import CodedSource
from bitwright.formats.folders.model_card import CARD_NAME, with_origin
from bitwright.formats.recode import Losses, recode
from bitwright.formats.sniff import open_source
from bitwright.pipeline.output import GrowingArtifact, publish_all
from bitwright.pipeline.run import WRITERS
from bitwright.tensors.qtensor import QTensor

RECORD = "conversion.json"
FLOAT_TYPES = ("F32", "F16", "BF16")
RECIPROCAL = 2.0**-22  # of a value: a rounded reciprocal, a rounded product, and the rounded value itself


@dataclasses.dataclass(frozen=True, slots=True)
class Proof:
    """How much was compared."""

    tensors: int
    values: int


def planned_tensors(source: CodedSource, format: ArtifactFormat, progress: Progress = SILENT) -> tuple[TensorPlan, ...]:
    """What every tensor becomes, in the order of the forward pass.

    Raises `UnsupportedError` where integers do not carry over exactly, with the reason.
    """
    facts = source.facts
    if facts.vision is not None:
        raise UnsupportedError("vision-language models are not converted")
    family = FAMILIES[facts.family]
    if (format == "gguf") != (source.format == "gguf") and (family.norm_offset or facts.experts):
        raise UnsupportedError(
            f"{facts.architecture} is laid out in another way in GGUF (norms plus one, experts in one tensor)",
            hint="quantize the original for the other format",
        )
    shapes = {tensor.name: tensor.shape for tensor in facts.tensors}
    names = family.all_tensors(facts.layers, tied=facts.tied, experts=facts.experts)
    entries, losses, packed = [], Losses(), 0
    progress.start("reading", len(names), "tensors")
    for name in names:
        try:
            scheme, lost = _target(name, source.load(name), format, len(shapes[name]))
        except UnsupportedError as error:
            raise UnsupportedError(f"`{name}`: {error.message}", hint=error.hint) from error
        losses += lost
        packed += not isinstance(scheme, FloatScheme) and not (isinstance(scheme, GgmlScheme) and scheme.is_float)
        entries.append(_entry(facts.family, name, shapes[name], scheme, format))
        progress.advance()
    progress.stop()
    if losses.count:
        raise UnsupportedError(
            f"{losses.count} of {losses.total} scales do not survive the cast to 16 bits, "
            f"the largest change is {losses.largest:.2g} of the scale"
        )
    if not packed:
        raise UnsupportedError("no tensor is quantized")
    return tuple(entries)


def _target(
    name: str, held: FloatScheme | QTensor, format: ArtifactFormat, dimensions: int
) -> tuple[WeightScheme, Losses]:
    if isinstance(held, QTensor):
        if format != "gguf" and not is_block_linear(name):
            return FloatScheme(dtype="f32"), Losses()
        value, losses = recode(held, format)
        return value.scheme, losses
    if format != "gguf":
        return held, Losses()
    return GgmlScheme(type="F32" if dimensions == 1 else held.dtype.upper()), Losses()


def _entry(family: str, name: str, shape: tuple[int, ...], scheme: WeightScheme, format: ArtifactFormat) -> TensorPlan:
    entry = TensorPlan(
        name=name,
        stored_name=gguf_name(name, family) if format == "gguf" else name,
        shape=shape,
        scheme=scheme,
        bytes=scheme.bytes_for(math.prod(shape[:-1]), shape[-1]),
        reason="the same values in another format",
    )
    if format == "gguf":
        return entry
    return msgspec.structs.replace(entry, bytes=sum(part.bytes for part in parts_of(format)(entry)))


def convert(
    plan: Plan, source: CodedSource, place: Path, out: Path, *, progress: Progress = SILENT
) -> ConversionRecord:
    """Write the artifact of `plan` into the new folder `out` from the codes of `source`, which lies at `place`.

    Raises `UsageError` when `out` is there already, `MismatchError` when the two artifacts do not decode alike (a
    mistake of ours or of a reader; nothing is left behind), `EnvironmentFault` for a full disk.
    """
    started = time.monotonic()
    with _new_folder(out) as work:
        writer = WRITERS[plan.format](plan, place)
        layouts = writer.layouts()
        floats = open_source(place)
        progress.start("writing", len(plan.tensors), "tensors")
        with GrowingArtifact(layouts, work) as artifact:
            artifact.write(writer.constants())
            for entry in plan.tensors:
                artifact.write(writer.encode(entry, _value(source, entry, floats, plan.format)))
                progress.advance()
            artifact.sync()
        progress.stop()
        publish_all(layouts, work, work)
        sidecars = writer.sidecars()
        for name, data in sidecars.items():
            write_bytes(work / name, data)
        slack = RECIPROCAL if _inverts_factors(source, plan) else 0.0
        proof = prove(place, work, progress, slack=slack)
        origin = f"Converted from {source.format} with the same integers: {proof_line(proof)}."
        if CARD_NAME in sidecars:
            write_bytes(work / CARD_NAME, with_origin(sidecars[CARD_NAME].decode(), origin).encode())
        record = ConversionRecord(
            source=str(place), source_format=source.format, source_fingerprint=source.facts.fingerprint, plan=plan,
            tensors=proof.tensors, values=proof.values, notes=_notes(source, plan, place),
            files=_files(work, layouts, plan.format), seconds=time.monotonic() - started, provenance=provenance(),
        )  # fmt: skip
        write_document(record, work / RECORD)
    return record


def proof_line(proof: Proof | ConversionRecord) -> str:
    """The proof in words."""
    return f"{proof.values:,} values of {proof.tensors} tensors decode alike in float32"


def prove(before: Path, after: Path, progress: Progress = SILENT, *, slack: float = 0.0) -> Proof:
    """Decode both artifacts and compare all of them. `slack` is the relative difference that is let pass.

    Raises `MismatchError` at the first tensor that differs.
    """
    left, right = open_source(before), open_source(after)
    names = sorted(left.names())
    if names != sorted(right.names()):
        raise MismatchError(f"`{before}` and `{after}` hold different tensors", hint=_REPORT)
    values = 0
    progress.start("comparing", len(names), "tensors")
    for name in names:
        # adding zero gives all zeros one sign: a negative scale times the code 0 is -0 in some formats and 0 in others
        old, new = left.load(name).float() + 0.0, right.load(name).float() + 0.0
        if old.shape != new.shape or not _alike(old, new, slack):
            count = int((old != new).sum()) if old.shape == new.shape else old.numel()
            raise MismatchError(
                f"`{name}` decodes differently from `{after.name}`: {count} of {old.numel()} values", hint=_REPORT
            )
        values += old.numel()
        progress.advance()
    progress.stop()
    return Proof(tensors=len(names), values=values)


def _alike(old: torch.Tensor, new: torch.Tensor, slack: float) -> bool:
    if slack:
        return bool(((old - new).abs() <= slack * old.abs()).all())
    return torch.equal(old.view(torch.int32), new.view(torch.int32))


def _inverts_factors(source: CodedSource, plan: Plan) -> bool:
    schemes = (entry.scheme for entry in plan.tensors)
    nv = any(isinstance(scheme, MinifloatScheme) and scheme.scaling == "nv" for scheme in schemes)
    return nv and (source.format == "compressed-tensors") != (plan.format == "compressed-tensors")


_REPORT = "nothing was written; report it with both formats, because the conversion should have been exact"


def _value(source: CodedSource, entry: TensorPlan, floats: WeightSource, format: ArtifactFormat) -> Any:
    held = source.load(entry.name)
    if isinstance(held, QTensor) and not isinstance(entry.scheme, FloatScheme):
        return recode(held, format)[0]
    return floats.load(entry.name).float().numpy()


def _notes(source: CodedSource, plan: Plan, place: Path) -> tuple[str, ...]:
    """Tensors that are codes in the source and floats in the target."""
    before = {tensor.name for tensor in source.facts.tensors if tensor.dtype not in FLOAT_TYPES}
    said = []
    if _inverts_factors(source, plan):
        said.append("NVFP4's factors are stored as their reciprocals: values agree within 2.4e-7 of themselves")
    if place.is_dir() and any(is_cache_scale(tensor.name) for tensor in read_checkpoint(place).tensors):
        said.append("the stored scales of the key-value cache are not carried over: quantize with --kv-cache fp8")
    grown = [e.name for e in plan.tensors if e.scheme == FloatScheme(dtype="f32") and e.name in before]
    return (*said, *_as_floats(grown))


def _as_floats(grown: list[str]) -> tuple[str, ...]:
    return tuple(f"`{name}` is stored as F32: folders hold only linears of blocks as integers" for name in grown)


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A sibling that takes the name of `out` at a clean end, and goes otherwise."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"`{out}` is there already", hint="choose another --out")
    work = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        yield work
        work.replace(out)
    except OSError as error:
        raise from_os_error(error, out) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _files(work: Path, layouts: tuple[Any, ...], format: ArtifactFormat) -> tuple[ArtifactFile, ...]:
    start: Callable[[Any], int] = (lambda layout: layout.data_start) if format == "gguf" else (lambda layout: 0)
    return tuple(
        ArtifactFile(
            name=layout.name,
            bytes=(work / layout.name).stat().st_size,
            sha256=sha256_file(work / layout.name, start=start(layout)),
        )
        for layout in layouts
    )
