"""Walk a checkpoint once and write the artifact: embedding, blocks, head.

Memory is bounded by one block in float32, one part of a matrix, the activations of some windows and the Gram matrix of
one group; it grows neither with depth nor with the number of windows, whose hidden states lie in the work directory.
The plan is obeyed, not questioned.

An embedding that is also the head is solved last, with the statistics of the head, and stays in floating point for the
pass itself; an embedding of its own is solved first and the blocks see its rounded values.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from bitwright.calibration.corpora import TokenWindows, make_windows, windows_from_files
from bitwright.calibration.selftext import self_windows
from bitwright.core.atomic import write_bytes
from bitwright.core.documents import write_document
from bitwright.core.plan import ArtifactFormat, CalibrationPlan, Plan, TensorPlan
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.core.records import QuantRecord, TensorRecord
from bitwright.facts.families import EMBEDDING, FINAL_NORM, HEAD
from bitwright.formats.compressed.writer import CompressedTensorsWriter
from bitwright.formats.folders.float_writer import FloatFolderWriter
from bitwright.formats.ggml.file import GgufWriter
from bitwright.formats.ggml.imatrix import planned_importances
from bitwright.formats.layout import ArtifactWriter
from bitwright.formats.original import open_original, other_weights
from bitwright.formats.packed.awq_writer import AwqWriter
from bitwright.formats.packed.bnb_writer import BitsandbytesWriter
from bitwright.formats.packed.gptq_writer import GptqWriter
from bitwright.formats.scaled.fp8_writer import Fp8Writer
from bitwright.formats.scaled.modelopt_writer import ModelOptWriter
from bitwright.modeling.walk import Walker
from bitwright.pipeline.blocks import quantize_block, quantize_head, windows_at_once
from bitwright.pipeline.casts import check_casts
from bitwright.pipeline.coverage import expert_coverage
from bitwright.pipeline.hidden import HiddenStates, write_hidden
from bitwright.pipeline.input_ranges import new_observer
from bitwright.pipeline.job import Job, UnitRecord
from bitwright.pipeline.output import GrowingArtifact, partial_path, publish_all
from bitwright.pipeline.preparation import Preparation
from bitwright.pipeline.record import RECORD, all_records, check_model, finished, make_record
from bitwright.pipeline.rows import StoredRows, UsedRows, parts, stored_parts
from bitwright.pipeline.sensitivity import Sensitivities
from bitwright.pipeline.units import VISION, is_float, layout_sha256, needs_text, unit_names
from bitwright.pipeline.workshop import Workshop, write_tensor
from bitwright.tensors.devices import CPU, Devices, full_memory_said, label


def quantize(
    plan: Plan,
    folder: Path,
    out: Path,
    *,
    adapter: Path | None = None,
    devices: Devices = (CPU,),
    progress: Progress = SILENT,
) -> QuantRecord:
    """Write the artifact of `plan` into `out` from the model in `folder`; resume what an earlier call began.

    `folder` is a checkpoint or a float GGUF file; `adapter` says where the plan's LoRA adapter lies now. Blocks run on
    `devices`, which an unfinished run keeps.

    Returns the record that is also in `out/quant.json`. A finished run of the same plan is returned as it stands.
    Raises `MismatchError` when `out` holds another artifact or another unfinished run, `UsageError` when `out` is the
    checkpoint's own folder.
    """
    if (record := finished(plan, folder, out)) is not None:
        return record
    if adapter is None and plan.model.adapter:
        adapter = Path(plan.model.adapter)
    source = open_original(folder, adapter)
    check_model(source.facts, plan, folder, adapter)
    job = Job(out, plan, label(devices))
    try:
        prepared = Preparation(out, plan)
        with full_memory_said(devices):
            record = _run(plan, folder, source, out, job, prepared, devices, progress)
        write_document(record, out / RECORD)
        job.remove()
        prepared.remove()
        return record
    finally:
        job.close()


def _run(
    plan: Plan,
    folder: Path,
    source: WeightSource,
    out: Path,
    job: Job,
    prepared: Preparation,
    devices: Devices,
    progress: Progress,
) -> QuantRecord:
    writer = WRITERS[plan.format](plan, folder)
    layouts = writer.layouts()
    plans = {entry.name: entry for entry in plan.tensors}
    units = unit_names(plan)
    if job.state is None:
        check_casts(plan, lambda entry: stored_parts(source, entry), progress)
        windows = None
        if needs_text(plan):
            windows = prepared.tokens() or calibration_windows(plan.calibration, folder, source, progress)
        tokens_WT = None if windows is None else windows.tokens.numpy()
        job.begin(tokens_WT, layout_sha256(layouts), torch.get_num_threads())
    else:
        partials = [partial_path(layout, job.folder) for layout in layouts]
        job.check_complete(layout_sha256(layouts), partials, len(units))
        held_WT = job.tokens()
        windows = None if held_WT is None else make_windows("calibration", torch.from_numpy(held_WT))
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
                devices=devices,
                act_order=plan.act_order != "none",
                new_observer=new_observer(plan),
                saturate=plan.saturate,
                sensitivities=_sensitivities(plan, source, prepared, windows, progress),
                emit=artifact.write,
                importance=planned_importances(plan),
            )
            _run_units(units, shop, job, artifact, windows, progress)
    publish_all(layouts, job.folder, out)
    for name, data in writer.sidecars().items():
        write_bytes(out / name, data)
    return make_record(plan, out, layouts, job, expert_coverage(plan, all_records(job)))


def _sensitivities(
    plan: Plan, source: WeightSource, prepared: Preparation, windows: TokenWindows | None, progress: Progress
) -> Sensitivities | None:
    """Weights of tokens, where the plan asks for the best and there is text to take them from."""
    if plan.effort != "best" or plan.method == "rtn" or windows is None:
        return None
    return prepared.sensitivities(source, windows, progress)


def calibration_windows(spec: CalibrationPlan, folder: Path, source: WeightSource, progress: Progress) -> TokenWindows:
    """The text that a plan names."""
    if spec.source == ("self",):
        weights = other_weights(folder, source)
        return self_windows(folder, spec.samples, spec.length, spec.seed, source=weights, progress=progress)
    return windows_from_files(spec.source, folder, spec.samples, spec.length, spec.seed)


def _run_units(
    units: list[str],
    shop: Workshop,
    job: Job,
    artifact: GrowingArtifact,
    windows: TokenWindows | None,
    progress: Progress,
) -> None:
    assert job.state is not None
    walker = Walker(shop.source, reduced=shop.reduced, devices=shop.devices)
    done = len(job.state.done)
    held = job.hidden()
    hidden = None if held is None else HiddenStates(job.folder, held)
    progress.start("quantizing", len(units), "blocks")
    progress.advance(done)
    for number, unit in enumerate(units):
        if number < done:
            continue
        started = time.monotonic()
        if unit == "embedding":
            records, hidden = _embedding(shop, walker, windows, job.folder)
        elif unit == "head":
            records = _head(shop, walker, hidden)
        elif unit == VISION:
            records = tuple(write_tensor(shop, name) for name in _beside(shop.plans, shop.source))
        else:
            records, hidden = quantize_block(shop, walker, number - 1, hidden)
        artifact.sync()
        finished_unit = UnitRecord(name=unit, tensors=records, regions=artifact.take_digests())
        job.finish_unit(finished_unit, None if hidden is None else hidden.file, time.monotonic() - started)
        progress.advance()
    progress.stop()


def _embedding(
    shop: Workshop, walker: Walker, windows: TokenWindows | None, work: Path
) -> tuple[tuple[TensorRecord, ...], HiddenStates | None]:
    if windows is None:
        return () if walker.tied else (write_tensor(shop, EMBEDDING),), None
    shape = shop.plans[EMBEDDING].shape
    walker.check_tokens(windows.tokens, shape[0])
    used = UsedRows(windows.tokens, shape[1])
    records: tuple[TensorRecord, ...] = ()
    if walker.tied:
        rows = StoredRows(shop.source, EMBEDDING)
        for part in parts(shape):
            used.see(part[0], rows.read(*part))
    else:
        records = (write_tensor(shop, EMBEDDING, see=used.see),)
    at_once = windows_at_once(shop.source.facts, windows.tokens.shape[1])
    embedded = (walker.embed(places, used.table_UH) for places in torch.split(used.places, at_once))
    return records, write_hidden(work, 1, len(windows.tokens), embedded)


def _head(shop: Workshop, walker: Walker, hidden: HiddenStates | None) -> tuple[TensorRecord, ...]:
    name = EMBEDDING if walker.tied else HEAD
    if hidden is None or is_float(shop.plans[name]):
        return write_tensor(shop, FINAL_NORM), write_tensor(shop, name)
    return quantize_head(shop, walker, name, hidden)


def _beside(plans: Mapping[str, TensorPlan], source: WeightSource) -> list[str]:
    """What is planned of vision tower and projector."""
    decoder = set(source.names())
    return [name for name in plans if name not in decoder]


WRITERS: dict[ArtifactFormat, Callable[[Plan, Path], ArtifactWriter]] = {
    "gguf": GgufWriter,
    "compressed-tensors": CompressedTensorsWriter,
    "gptq": GptqWriter,
    "gptq_v2": GptqWriter,
    "awq": AwqWriter,
    "bitsandbytes": BitsandbytesWriter,
    "fp8": Fp8Writer,
    "modelopt": ModelOptWriter,
    "safetensors": FloatFolderWriter,
}
