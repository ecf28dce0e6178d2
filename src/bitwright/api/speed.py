"""Speed of an artifact beside its F16 twin: same engine, same run. The twin is made for the measurement and removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from bitwright.api.decision import settle
from bitwright.api.models import adapter_folder
from bitwright.api.service import locate
from bitwright.core.documents import read_document, write_document
from bitwright.core.plan import Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import SpeedRecord

SPEED_FILE = "speed.json"
FLOAT_FOLDER = ".float"
FLOAT_TYPE = "F16"
TOKENS, DECODE_SHARE = 320, 5  # 256 of prompt and 64 decoded, less where the model's context is shorter
MARGIN = 16


def measure_speed(
    plan: Plan,
    folder: Path,
    out: Path,
    *,
    lora: Path | str | None = None,
    keep_float: bool = False,
    progress: Progress = SILENT,
) -> SpeedRecord | None:
    """Write `speed.json`, or return the one that stands. `None` for formats without an engine on this machine."""
    if plan.format != "gguf":
        return None
    place, _ = locate(out)
    path = out / SPEED_FILE
    if path.exists():
        record = read_document(SpeedRecord, path)
        if record.points and record.points[0].bytes == place.stat().st_size:
            if not keep_float:
                remove_twin(out)  # a kill behind the last write leaves it
            return record
    from bitwright.engines.speed import measure

    twin = _float_twin(plan, folder, adapter_folder(lora), out / FLOAT_FOLDER, progress)
    tokens = min(TOKENS, plan.model.context - MARGIN)
    decode = tokens // DECODE_SHARE
    record = measure(
        [(plan.type, place), (FLOAT_TYPE, twin)], prompt_tokens=tokens - decode, decode_tokens=decode, progress=progress
    )
    write_document(record, path)
    if not keep_float:
        remove_twin(out)
    return record


def remove_twin(out: Path) -> None:
    """Remove the F16 file, if there is one."""
    if (out / FLOAT_FOLDER).exists():
        shutil.rmtree(out / FLOAT_FOLDER)


def _float_twin(plan: Plan, folder: Path, adapter: Path | None, out: Path, progress: Progress) -> Path:
    from bitwright.pipeline.run import quantize
    from bitwright.planner.build import make_plan

    twin = make_plan(plan.model, plan.device, use_case=plan.use_case, type=FLOAT_TYPE, context=plan.memory.context)
    quantize(settle(twin, out), folder, out, adapter=adapter, progress=progress)
    return locate(out)[0]
