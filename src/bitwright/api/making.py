"""Obey a plan: checkpoint in, artifact out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bitwright.api.decision import settle
from bitwright.api.models import model_folder
from bitwright.core.errors import InputError, UsageError
from bitwright.core.plan import CalibrationPlan, Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import QuantRecord

SELF = "self"


def quantize(plan: Plan, out: Path, *, model: Path | str | None = None, progress: Progress = SILENT) -> QuantRecord:
    """Write the artifact of `plan`, `plan.json` and `quant.json` into `out`; go on where an interrupted call stopped.

    `model` is where the checkpoint lies now, by default where the plan found it. Raises `MismatchError` when `out`
    holds something else, `InputError` for a damaged checkpoint or text, `EnvironmentFault` for a full disk.
    """
    check_text(plan.calibration)
    folder = model_folder(model if model is not None else plan.model.path, progress=progress)
    plan = settle(plan, out)
    from bitwright.pipeline.run import quantize as run

    return run(plan, folder, out, progress=progress)


def calibration_plan(source: Sequence[str], samples: int, length: int, seed: int) -> CalibrationPlan:
    """Check what the statistics are to come from. `self` stands alone, files may be several."""
    sources = tuple(source) or (SELF,)
    if SELF in sources and len(sources) > 1:
        raise UsageError("`self` and files cannot be mixed as calibration text", hint="give files, or `self` alone")
    plan = CalibrationPlan(
        source=tuple(name if name == SELF or name.startswith("hub:") else str(Path(name)) for name in sources),
        samples=samples,
        length=length,
        seed=seed,
    )
    check_text(plan)
    return plan


def check_text(plan: CalibrationPlan) -> None:
    """Refuse a missing file now rather than after the model has been read."""
    for name in plan.source:
        if name != SELF and not name.startswith("hub:") and not Path(name).is_file():
            raise InputError(
                f"calibration text `{name}` does not exist", hint="check the path, or use --calibration self"
            )
