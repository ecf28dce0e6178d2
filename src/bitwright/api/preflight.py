"""The look ahead before a long step, and the refusal of one that cannot end well. Reads headers only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.api.devices import check_used
from bitwright.core.device_request import CPU
from bitwright.core.errors import EnvironmentFault, UsageError
from bitwright.core.plan import CalibrationPlan, Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.units import format_bytes

if TYPE_CHECKING:
    from bitwright.api.shipment import EvaluationText
    from bitwright.core.preflight import Preflight


def preflight(plan: Plan, out: Path, *, text: EvaluationText | None = None, device: str = CPU) -> Preflight:
    """What `quantize` of `plan` into `out` will take; with `text`, `ship`, which judges on it.

    What an interrupted run has done already is counted again in its time, not in its disk.
    Raises `InputError` for a plan of a model without weights, `UsageError` for a `device` that is not used.
    """
    refuse_dimensions(plan)
    if text is None:
        check_used(plan, device)
    from bitwright.planner.duration import Judging
    from bitwright.planner.preflight import quantize_preflight

    judging = None
    if text is not None:
        tokens = max(len(text.files), 1) * text.windows * text.length
        judging = Judging(tokens=tokens, sampled=not text.files, measured=plan.format == "gguf")
    return quantize_preflight(plan, out, made=is_made(out), judging=judging, device=device)


def refuse_dimensions(plan: Plan) -> None:
    """Raise `InputError` where the plan was made from the catalogue, and so there is nothing to quantize."""
    if plan.model.catalogue:
        from bitwright.api.models import without_weights

        raise without_weights(plan.model.path, plan.model.catalogue)


def is_made(out: Path) -> bool:
    """Whether a quantization is finished in `out`; which one, it is for the run itself to compare."""
    return (out / "quant.json").exists()


def preflight_imatrix(
    model: Path | str, out: Path, *, lora: Path | str | None, calibration: CalibrationPlan, progress: Progress = SILENT
) -> Preflight:
    """What `imatrix` will take. Raises as it does for a model or text that is not there."""
    check_measurable(calibration)
    from bitwright.api.models import model_facts_of, model_folder
    from bitwright.planner.preflight import imatrix_preflight

    return imatrix_preflight(model_facts_of(model_folder(model, progress=progress), lora), calibration, out)


def check_measurable(calibration: CalibrationPlan) -> None:
    """Raise `UsageError` where an importance matrix would be taken from nothing."""
    if not calibration.source:
        raise UsageError("an importance matrix is taken from text", hint="use --calibration FILE, or `self`")


def refuse_full_disk(found: Preflight) -> None:
    """Raise `EnvironmentFault` when the step's files do not fit on the disk. Memory is predicted, and warned of."""
    disk = found.disk
    if disk.needed > disk.free:
        what = ", ".join(f"{part.what} {format_bytes(part.amount)}" for part in disk.parts)
        raise EnvironmentFault(
            f"no space left on the disk that holds `{disk.where}`: {found.step} needs {format_bytes(disk.needed)} "
            f"({what}), {format_bytes(disk.free)} are free",
            hint="free some space, or choose another --out",
        )
