"""Obey a plan: checkpoint in, artifact out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from bitwright.api.decision import settle
from bitwright.api.devices import check_device, check_used, device_for, devices_of
from bitwright.api.models import adapter_folder, model_folder
from bitwright.api.preflight import is_made, preflight, refuse_dimensions, refuse_full_disk
from bitwright.core.atomic import sha256_file
from bitwright.core.device_request import CPU
from bitwright.core.errors import InputError, MismatchError, UsageError
from bitwright.core.plan import CalibrationPlan, Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import QuantRecord

SELF = "self"
NONE = "none"  # no text: every input counts alike


def quantize(
    plan: Plan,
    out: Path,
    *,
    model: Path | str | None = None,
    lora: Path | str | None = None,
    device: str = CPU,
    progress: Progress = SILENT,
) -> QuantRecord:
    """Write the artifact of `plan`, `plan.json` and `quant.json` into `out`; go on where an interrupted call stopped.

    `model` and `lora` are where they lie now, by default where the plan found them. The model's blocks run on `device`
    (core/device_request.py). Raises `MismatchError` when `out`
    holds something else, `InputError` for a damaged checkpoint or text, `EnvironmentFault` for a full disk,
    before anything is written where sizes show it.
    """
    refuse_dimensions(plan)
    check_text(plan.calibration)
    check_used(plan, device)
    check_device(device)
    folder = model_folder(model if model is not None else plan.model.path, progress=progress)
    adapter = adapter_folder(lora or plan.model.adapter)
    if not is_made(out):
        refuse_full_disk(preflight(plan, out))
    plan = settle(plan, out)
    from bitwright.pipeline.direct import is_direct
    from bitwright.pipeline.direct import quantize as round_rows

    if is_direct(plan, folder, adapter):  # neither text nor torch
        return round_rows(plan, folder, out, progress=progress)
    from bitwright.pipeline.run import quantize as run

    return run(plan, folder, out, adapter=adapter, devices=devices_of(device_for(plan, device)), progress=progress)


def calibration_plan(
    source: Sequence[str], samples: int, length: int, seed: int, *, imatrix: Path | None = None
) -> CalibrationPlan:
    """Check what the statistics are to come from, and take the hash of every file. `self` stands alone.

    `none` stands alone too: no text is read, and every input counts alike. `imatrix` is an importance matrix file in
    place of text. Raises `UsageError` for both, `InputError` for a missing
    file.
    """
    if imatrix is not None:
        if source:
            raise UsageError(
                "an importance matrix and calibration text cannot be given together",
                hint="--imatrix takes the place of --calibration; give one of them",
            )
        plan = CalibrationPlan(source=(), imatrix=str(imatrix))
    elif tuple(source) == (NONE,):
        plan = CalibrationPlan(source=())
    else:
        sources = tuple(source) or (SELF,)
        alone = next((name for name in (SELF, NONE) if name in sources and len(sources) > 1), None)
        if alone is not None:
            hint = f"give files, or `{alone}` alone"
            raise UsageError(f"`{alone}` and files cannot be mixed as calibration text", hint=hint)
        sources = tuple(name if _is_no_file(name) else str(Path(name)) for name in sources)
        plan = CalibrationPlan(source=sources, samples=samples, length=length, seed=seed)
    check_text(plan)
    return msgspec.structs.replace(plan, content_sha256=_content(plan))


def check_text(plan: CalibrationPlan) -> None:
    """Refuse a missing or changed file now rather than after the model has been read."""
    for name in (plan.imatrix,) if plan.imatrix else plan.source:
        if not _is_no_file(name) and not Path(name).is_file():
            what = "importance matrix" if plan.imatrix else "calibration text"
            raise InputError(f"{what} `{name}` does not exist", hint="check the path, or use --calibration self")
    if not plan.content_sha256:
        return
    for name, before, now in zip(plan.source or (plan.imatrix,), plan.content_sha256, _content(plan), strict=False):
        if before != now:
            raise MismatchError(
                f"`{name}` has changed since the plan was made", hint="make the plan again, or bring the file back"
            )


def _content(plan: CalibrationPlan) -> tuple[str, ...]:
    """SHA-256 of every file. A name on the hub has none: its tokens are hashed when they have been fetched."""
    if plan.source == (SELF,):
        return ()
    names = (plan.imatrix,) if plan.imatrix else plan.source
    return tuple("" if _is_no_file(name) else sha256_file(Path(name)) for name in names)


def _is_no_file(name: str) -> bool:
    return name == SELF or name.startswith("hub:")
