"""The record of a finished run, and what is checked before one begins. No torch: direct.py starts without it."""

from __future__ import annotations

import resource
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from bitwright.core.atomic import sha256_file
from bitwright.core.documents import read_document
from bitwright.core.errors import MismatchError, UsageError, from_os_error
from bitwright.core.plan import ModelFacts, Plan
from bitwright.core.provenance import provenance
from bitwright.core.records import ArtifactFile, ExpertCoverage, QuantRecord, TensorRecord
from bitwright.formats.layout import FileLayout
from bitwright.pipeline.job import PREPARED, WORK, Job, identity

RECORD = "quant.json"


def finished(plan: Plan, folder: Path, out: Path) -> QuantRecord | None:
    """The record of a finished run of the same plan, if there is one.

    Raises `MismatchError` when `out` holds another artifact, `UsageError` when it is the model's own folder.
    """
    if out.resolve() == (folder.parent if folder.is_file() else folder).resolve():
        raise UsageError(f"`{out}` is the model's own folder, which would be overwritten", hint="choose another --out")
    if not (out / RECORD).exists():
        return None
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


def check_model(facts: ModelFacts, plan: Plan, folder: Path, adapter: Path | None = None) -> None:
    """Raises `MismatchError` for another model than the plan's."""
    if facts.fingerprint != plan.model.fingerprint:
        what = f"`{folder}`" if adapter is None else f"`{folder}` with the adapter `{adapter}`"
        raise MismatchError(f"{what} is not the checkpoint that the plan was made for", hint="make the plan again")


def all_records(job: Job) -> tuple[TensorRecord, ...]:
    """What was done with every tensor so far."""
    assert job.state is not None
    return tuple(record for unit in job.state.done for record in unit.tensors)


def make_record(
    plan: Plan,
    out: Path,
    layouts: tuple[FileLayout, ...],
    job: Job,
    experts: ExpertCoverage | None = None,
    digests: Mapping[str, str] | None = None,
) -> QuantRecord:
    """The record of published files, whose digests are taken here where they are not known."""
    assert job.state is not None
    files = []
    for layout in layouts:
        start = layout.data_start if plan.format == "gguf" else 0
        try:
            size = (out / layout.name).stat().st_size
        except OSError as error:
            raise from_os_error(error, out / layout.name) from error
        digest = (digests or {}).get(layout.name) or sha256_file(out / layout.name, start=start)
        files.append(ArtifactFile(name=layout.name, bytes=size, sha256=digest))
    return QuantRecord(
        plan=plan,
        calibration=plan.calibration,
        calibration_sha256=job.state.tokens_sha256,
        tensors=all_records(job),
        files=tuple(files),
        seconds=job.state.seconds,
        peak_memory_bytes=_peak_memory_bytes(),
        provenance=msgspec.structs.replace(provenance(), device=job.state.device),
        experts=experts,
    )


def _peak_memory_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS
