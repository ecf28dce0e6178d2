"""Walk a checkpoint once and write the artifact: embedding, blocks, head.

Memory is bounded by one block in float32, the hidden states of the calibration windows, the Gram matrices of one group
and the head; it does not grow with depth. The plan is obeyed, not questioned.

An embedding that is also the head is solved last, with the statistics of the head, and stays in floating point for the
pass itself; an embedding of its own is solved first and the blocks see its rounded values.
"""

from __future__ import annotations

import hashlib
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.corpora import TokenWindows, windows_from_files
from bitwright.calibration.selftext import self_windows
from bitwright.core.atomic import sha256_file, write_bytes
from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import MismatchError, UsageError, from_os_error
from bitwright.core.plan import ArtifactFormat, CalibrationPlan, Plan
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.core.provenance import provenance
from bitwright.core.records import ArtifactFile, QuantRecord, TensorRecord
from bitwright.core.schemes import CodebookScheme, Int8RowScheme
from bitwright.facts.families import BLOCK, EMBEDDING, FINAL_NORM, HEAD
from bitwright.formats.compressed.writer import CompressedTensorsWriter
from bitwright.formats.folders.float_writer import FloatFolderWriter
from bitwright.formats.ggml.file import GgufWriter
from bitwright.formats.ggml.imatrix import importances, read_imatrix
from bitwright.formats.layout import ArtifactWriter, FileLayout
from bitwright.formats.original import open_original, other_weights
from bitwright.formats.packed.awq_writer import AwqWriter
from bitwright.formats.packed.bnb_writer import BitsandbytesWriter
from bitwright.formats.packed.gptq_writer import GptqWriter
from bitwright.modeling.walk import Walker
from bitwright.pipeline.blocks import Workshop, is_float, quantize_block, quantize_head, write_tensor
from bitwright.pipeline.casts import check_casts
from bitwright.pipeline.coverage import expert_coverage
from bitwright.pipeline.job import WORK, Job, UnitRecord, identity
from bitwright.pipeline.output import GrowingArtifact, partial_path, publish_all
from bitwright.pipeline.preparation import PREPARED, Preparation
from bitwright.pipeline.sensitivity import Sensitivities

RECORD = "quant.json"
WHOLE = (CodebookScheme, Int8RowScheme)  # solved without statistics


def quantize(
    plan: Plan, folder: Path, out: Path, *, adapter: Path | None = None, progress: Progress = SILENT
) -> QuantRecord:
    """Write the artifact of `plan` into `out` from the model in `folder`; resume what an earlier call began.

    `folder` is a checkpoint or a float GGUF file; `adapter` says where the plan's LoRA adapter lies now.

    Returns the record that is also in `out/quant.json`. A finished run of the same plan is returned as it stands.
    Raises `MismatchError` when `out` holds another artifact or another unfinished run, `UsageError` when `out` is the
    checkpoint's own folder.
    """
    if out.resolve() == (folder.parent if folder.is_file() else folder).resolve():
        raise UsageError(f"`{out}` is the model's own folder, which would be overwritten", hint="choose another --out")
    if (out / RECORD).exists():
        return _finished(plan, out)
    if adapter is None and plan.model.adapter:
        adapter = Path(plan.model.adapter)
    source = open_original(folder, adapter)
    if source.facts.fingerprint != plan.model.fingerprint:
        what = f"`{folder}`" if adapter is None else f"`{folder}` with the adapter `{adapter}`"
        raise MismatchError(f"{what} is not the checkpoint that the plan was made for", hint="make the plan again")
    job = Job(out, plan)
    try:
        prepared = Preparation(out, plan)
        record = _run(plan, folder, source, out, job, prepared, progress)
        write_document(record, out / RECORD)
        job.remove()
        prepared.remove()
        return record
    finally:
        job.close()


def _finished(plan: Plan, out: Path) -> QuantRecord:
    record = read_document(QuantRecord, out / RECORD)
    if identity(record.plan) != identity(plan):
        raise MismatchError(
            f"`{out}` already holds an artifact made from another model, plan or text", hint="choose another --out"
        )
    for file in record.files:
        if not (out / file.name).exists():
            raise MismatchError(f"`{out}` has lost `{file.name}`", hint=f"remove `{out / RECORD}` to write it anew")
    for left in (WORK, PREPARED):
        shutil.rmtree(out / left, ignore_errors=True)  # a kill may have come between the record and the clean-up
    return record


def _run(
    plan: Plan,
    folder: Path,
    source: WeightSource,
    out: Path,
    job: Job,
    prepared: Preparation,
    progress: Progress,
) -> QuantRecord:
    writer = WRITERS[plan.format](plan, folder)
    layouts = writer.layouts()
    plans = {entry.name: entry for entry in plan.tensors}
    units = unit_names(plan)
    if job.state is None:
        check_casts(plan, source, progress)
        windows = None
        if needs_text(plan):
            windows = prepared.tokens() or calibration_windows(plan.calibration, folder, source, progress)
        job.begin(windows, layout_sha256(layouts))
    else:
        partials = [partial_path(layout, job.folder) for layout in layouts]
        job.check_complete(layout_sha256(layouts), partials, len(units))
        windows = job.tokens()
        torch.set_num_threads(job.state.threads)
    assert job.state is not None
    if len(job.state.done) < len(units):
        with GrowingArtifact(layouts, job.folder) as artifact:
            for unit in job.state.done:
                artifact.check(unit.regions)
            artifact.write(writer.constants())
            artifact.take_digests()
            shop = Workshop(
                source=source,
                writer=writer,
                plans=plans,
                method=plan.method,
                rescale=plan.scales_columns,
                reduced=plan.effort == "fast",
                saturate=plan.saturate,
                sensitivities=_sensitivities(plan, source, prepared, windows, progress),
                emit=artifact.write,
                importance=_importance(plan),
            )
            _run_units(units, shop, job, artifact, windows, progress)
    publish_all(layouts, job.folder, out)
    for name, data in writer.sidecars().items():
        write_bytes(out / name, data)
    return _record(plan, out, layouts, job)


def _sensitivities(
    plan: Plan, source: WeightSource, prepared: Preparation, windows: TokenWindows | None, progress: Progress
) -> Sensitivities | None:
    """Weights of tokens, where the plan asks for the best and there is text to take them from."""
    if plan.effort != "best" or plan.method == "rtn" or windows is None:
        return None
    return prepared.sensitivities(source, windows, progress)


def layout_sha256(layouts: tuple[FileLayout, ...]) -> str:
    """Identity of every byte that is not tensor data, and so of every offset."""
    digest = hashlib.sha256()
    for layout in layouts:
        digest.update(layout.name.encode() + layout.header)
    return digest.hexdigest()


def needs_text(plan: Plan) -> bool:
    """Whether statistics have to be taken: not for an artifact in floating point or with bitsandbytes' own rounding,
    nor with an importance matrix."""
    unfitted = all(is_float(entry) or isinstance(entry.scheme, WHOLE) for entry in plan.tensors)
    return not plan.calibration.imatrix and not unfitted


def calibration_windows(spec: CalibrationPlan, folder: Path, source: WeightSource, progress: Progress) -> TokenWindows:
    """The text that a plan names."""
    if spec.source == ("self",):
        weights = other_weights(folder, source)
        return self_windows(folder, spec.samples, spec.length, spec.seed, source=weights, progress=progress)
    return windows_from_files(spec.source, folder, spec.samples, spec.length, spec.seed)


def unit_names(plan: Plan) -> list[str]:
    """What is done one after another, and recorded each."""
    return ["embedding", *(BLOCK.format(layer=index).rstrip(".") for index in range(plan.model.layers)), "head"]


def _run_units(
    units: list[str],
    shop: Workshop,
    job: Job,
    artifact: GrowingArtifact,
    windows: TokenWindows | None,
    progress: Progress,
) -> None:
    assert job.state is not None
    walker = Walker(shop.source, reduced=shop.reduced)
    done = len(job.state.done)
    hidden = job.hidden()
    progress.start("quantizing", len(units), "blocks")
    progress.advance(done)
    for number, unit in enumerate(units):
        if number < done:
            continue
        started = time.monotonic()
        if unit == "embedding":
            records, hidden = _embedding(shop, walker, windows)
        elif unit == "head":
            records = _head(shop, walker, hidden)
        else:
            records, hidden = quantize_block(shop, walker, number - 1, hidden)
        artifact.sync()
        job.finish_unit(
            UnitRecord(name=unit, tensors=records, regions=artifact.take_digests()), hidden, time.monotonic() - started
        )
        progress.advance()
    progress.stop()


def _embedding(
    shop: Workshop, walker: Walker, windows: TokenWindows | None
) -> tuple[tuple[TensorRecord, ...], torch.Tensor | None]:
    records: tuple[TensorRecord, ...] = ()
    values = None
    if not walker.tied:
        record, values = write_tensor(shop, EMBEDDING)
        records = (record,)
    if windows is None:
        return records, None
    if values is None:
        return records, walker.embed(windows.tokens)
    return records, walker.embed(windows.tokens, torch.from_numpy(values))


def _head(shop: Workshop, walker: Walker, hidden: torch.Tensor | None) -> tuple[TensorRecord, ...]:
    name = EMBEDDING if walker.tied else HEAD
    if hidden is None or is_float(shop.plans[name]):
        return write_tensor(shop, FINAL_NORM)[0], write_tensor(shop, name)[0]
    return quantize_head(shop, walker, name, hidden)


def _importance(plan: Plan) -> dict[str, NDArray[np.float32]]:
    """What an importance matrix says of the inputs, where the plan names one."""
    path = Path(plan.calibration.imatrix)
    return importances(read_imatrix(path), path, plan.tensors, plan.model.family) if plan.calibration.imatrix else {}


WRITERS: dict[ArtifactFormat, Callable[[Plan, Path], ArtifactWriter]] = {
    "gguf": GgufWriter,
    "compressed-tensors": CompressedTensorsWriter,
    "gptq": GptqWriter,
    "gptq_v2": GptqWriter,
    "awq": AwqWriter,
    "bitsandbytes": BitsandbytesWriter,
    "safetensors": FloatFolderWriter,
}


def _record(plan: Plan, out: Path, layouts: tuple[FileLayout, ...], job: Job) -> QuantRecord:
    assert job.state is not None
    files = []
    for layout in layouts:
        start = layout.data_start if plan.format == "gguf" else 0
        try:
            size = (out / layout.name).stat().st_size
        except OSError as error:
            raise from_os_error(error, out / layout.name) from error
        files.append(ArtifactFile(name=layout.name, bytes=size, sha256=sha256_file(out / layout.name, start=start)))
    records = tuple(record for unit in job.state.done for record in unit.tensors)
    return QuantRecord(
        plan=plan,
        calibration=plan.calibration,
        calibration_sha256=job.state.tokens_sha256,
        tensors=records,
        files=tuple(files),
        seconds=job.state.seconds,
        peak_memory_bytes=_peak_memory_bytes(),
        provenance=provenance(),
        experts=expert_coverage(plan, records),
    )


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS
