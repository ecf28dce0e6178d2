"""A GGUF file from a checkpoint folder where no text is read: rows in, rounded rows out, no forward pass.

With an importance matrix (or into floats) the weights are all that a run needs, so nothing here imports torch, which
takes longer than rounding a small model. Rows are read, solved and packed by threads in parts of a fixed size; this
thread writes units in order, and keeps at most `AHEAD` units waiting. Memory is these units' bytes and one part per
thread, whatever the size of a tensor. Same job folder, same records and same bytes as run.py.

A job is committed when `COMMIT_SECONDS` have passed, not after every unit: blocks take milliseconds here, and waiting
for the disk after each would cost more than they do.

Not here: all that needs activations, an adapter, a float GGUF file, a vision tower, a cast that may overflow or
another format (run.py).
Dimension key: O outputs · I inputs
"""

from __future__ import annotations

import ctypes
import dataclasses
import math
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from bitwright.core.documents import write_document
from bitwright.core.plan import Plan, TensorPlan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import QuantRecord, TensorRecord
from bitwright.core.schemes import GgmlScheme
from bitwright.facts.checkpoint import is_gguf
from bitwright.facts.families import BLOCK, EMBEDDING, FINAL_NORM, HEAD
from bitwright.formats.float_rows import WIDENED, FloatRows
from bitwright.formats.ggml.file import GgufWriter
from bitwright.formats.ggml.imatrix import planned_importances
from bitwright.pipeline.casts import is_half
from bitwright.pipeline.job import PREPARED, Job, UnitRecord
from bitwright.pipeline.output import GrowingArtifact, partial_path, publish_all
from bitwright.pipeline.record import RECORD, check_model, finished, make_record
from bitwright.pipeline.units import is_float, layout_sha256, needs_text, unit_names
from bitwright.quantize.lane_sums import LANES
from bitwright.quantize.nearest import relative, round_measured

PART = 1 << 19  # weights per task: 2 MiB of float32, which stays in the caches
AHEAD = 4  # units solved before they are written
COMMIT_SECONDS = 1.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
KEPT_BYTES = 32 << 20  # per thread; the most that mallopt takes for arrays
UNKNOWN_INPUTS = "the importance matrix does not speak of this tensor: every input counts alike"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows as they are stored, their squared errors and sizes, and the seconds that they took."""

    data: bytes
    error: float
    size: float
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every part needs. `importance` is mean squares of inputs by tensor."""

    source: FloatRows
    writer: GgufWriter
    plans: Mapping[str, TensorPlan]
    importance: Mapping[str, NDArray[np.float32]]


def is_direct(plan: Plan, folder: Path, adapter: Path | None) -> bool:
    """Whether a plan can be obeyed here."""
    plain = adapter is None and not plan.model.adapter and not is_gguf(folder) and plan.model.vision is None
    known = all(tensor.dtype in WIDENED for tensor in plan.model.tensors)
    cast = any(is_half(entry) for entry in plan.tensors)
    return plan.format == "gguf" and plain and known and not cast and not needs_text(plan)


def quantize(plan: Plan, folder: Path, out: Path, *, progress: Progress = SILENT) -> QuantRecord:
    """Write the artifact of `plan` into `out` from the checkpoint in `folder`; resume what an earlier call began.

    Returns the record that is also in `out/quant.json`. Raises as `run.quantize`.
    """
    if (record := finished(plan, folder, out)) is not None:
        return record
    source = FloatRows(folder)
    check_model(source.facts, plan, folder)
    job = Job(out, plan)
    try:
        record = _run(plan, folder, source, out, job, progress)
        write_document(record, out / RECORD)
        job.remove()
        shutil.rmtree(out / PREPARED, ignore_errors=True)
        return record
    finally:
        job.close()


def _run(plan: Plan, folder: Path, source: FloatRows, out: Path, job: Job, progress: Progress) -> QuantRecord:
    writer = GgufWriter(plan, folder)
    layouts = writer.layouts()
    units = unit_names(plan)
    _keep_freed_memory()
    if job.state is None:
        job.begin(None, layout_sha256(layouts), os.cpu_count() or 1)
    else:
        job.check_complete(layout_sha256(layouts), [partial_path(layout, job.folder) for layout in layouts], len(units))
    assert job.state is not None
    digests: dict[str, str] = {}
    if len(job.state.done) < len(units):
        plans = {entry.name: entry for entry in plan.tensors}
        bench = Bench(source=source, writer=writer, plans=plans, importance=planned_importances(plan))
        with GrowingArtifact(layouts, job.folder) as artifact:
            for unit in job.state.done:
                artifact.check(unit.regions)
            artifact.write(writer.constants())
            artifact.forget()
            digests = _run_units(units, bench, job, artifact, progress)
    publish_all(layouts, job.folder, out)
    return make_record(plan, out, layouts, job, digests=digests)


def _keep_freed_memory() -> None:
    """Tell glibc to reuse what threads free: arrays of a part come and go, and giving each back to the system makes it
    clear every page again, half of the run's time. Other C libraries are left as they are."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, KEPT_BYTES)


def _run_units(
    units: list[str], bench: Bench, job: Job, artifact: GrowingArtifact, progress: Progress
) -> dict[str, str]:
    """Solve and write what is left. Returns the digests of the files."""
    assert job.state is not None
    done = len(job.state.done)
    progress.start("quantizing", len(units), "blocks")
    progress.advance(done)
    left = deque(units[done:])
    waiting: deque[tuple[str, dict[str, list[Future[Part]]]]] = deque()
    finished_units: list[UnitRecord] = []
    started = time.monotonic()
    pool = ThreadPoolExecutor(numba.get_num_threads())  # all cores, or what NUMBA_NUM_THREADS says
    try:
        while left or waiting:
            while left and len(waiting) < AHEAD:
                unit = left.popleft()
                waiting.append((unit, {name: _submit(bench, pool, name) for name in _names(unit, bench.plans)}))
            finished_units.append(_write_unit(bench, artifact, *waiting.popleft()))
            progress.advance()
            if (left or waiting) and time.monotonic() - started > COMMIT_SECONDS:
                artifact.sync()
                regions = artifact.take_digests()
                finished_units[-1] = msgspec.structs.replace(finished_units[-1], regions=regions)
                job.finish_units(finished_units, None, time.monotonic() - started)
                finished_units, started = [], time.monotonic()
    finally:
        pool.shutdown(cancel_futures=True)
    digests = artifact.sync_and_digest()
    job.finish_units(finished_units, None, time.monotonic() - started)  # a complete job is never held against its file
    progress.stop()
    return digests


def _names(unit: str, plans: Mapping[str, TensorPlan]) -> list[str]:
    """Tensors of a unit. An embedding that is also the head counts as the head, as in run.py."""
    tied = HEAD not in plans
    if unit == "embedding":
        return [] if tied else [EMBEDDING]
    if unit == "head":
        return [FINAL_NORM, EMBEDDING if tied else HEAD]
    prefix = f"{unit}."
    assert prefix.startswith(BLOCK.partition("{")[0]), unit
    return [name for name in plans if name.startswith(prefix)]


def _submit(bench: Bench, pool: ThreadPoolExecutor, name: str) -> list[Future[Part]]:
    entry = bench.plans[name]
    if len(entry.shape) < 2:
        return [pool.submit(_part, bench, entry, 0, entry.shape[0] if entry.shape else 1)]
    together = math.lcm(bench.writer.rows_together(entry), LANES)  # no lane stays empty
    step = max(PART // entry.shape[1] // together, 1) * together
    return [
        pool.submit(_part, bench, entry, first, min(step, entry.shape[0] - first))
        for first in range(0, entry.shape[0], step)
    ]


def _part(bench: Bench, entry: TensorPlan, first: int, count: int) -> Part:
    started = time.monotonic()
    weight_OI = bench.source.load(entry.name, first, count)
    if is_float(entry):
        data = bench.writer.encode_rows(entry, weight_OI, first)
        return Part(data=data, error=0.0, size=0.0, seconds=time.monotonic() - started)
    assert isinstance(entry.scheme, GgmlScheme), entry.name
    mean_squares_I = bench.importance.get(entry.name)
    weights_I = np.ones(entry.shape[1], dtype=np.float32) if mean_squares_I is None else relative(mean_squares_I)
    tensor, error, size = round_measured(weight_OI, weights_I, entry.scheme.type)
    data = bench.writer.encode_rows(entry, tensor, first)
    return Part(data=data, error=error, size=size, seconds=time.monotonic() - started)


def _write_unit(
    bench: Bench, artifact: GrowingArtifact, unit: str, tensors: Mapping[str, list[Future[Part]]]
) -> UnitRecord:
    records = []
    for name, futures in tensors.items():
        entry, parts = bench.plans[name], [future.result() for future in futures]
        artifact.write({entry.stored_name: b"".join(part.data for part in parts)})
        error, size = sum(part.error for part in parts), sum(part.size for part in parts)
        silent = bench.importance and name not in bench.importance and not is_float(entry)
        records.append(
            TensorRecord(
                name=name, scheme=entry.scheme.label, method="cast" if is_float(entry) else "rtn", bytes=entry.bytes,
                weight_error=error / size if size > 0 else 0.0, notes=(UNKNOWN_INPUTS,) if silent else (),
                seconds=sum(part.seconds for part in parts),
            )
        )  # fmt: skip
    return UnitRecord(name=unit, tensors=tuple(records), regions={})
