"""Write the importance matrix of a model, for tools of llama.cpp and for `quantize --imatrix`."""

from __future__ import annotations

import time
from pathlib import Path

from bitwright.api.making import calibration_plan, check_text
from bitwright.api.models import adapter_folder, model_folder
from bitwright.api.preflight import check_measurable
from bitwright.core.plan import CalibrationPlan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.provenance import provenance
from bitwright.core.records import ImatrixRecord


def imatrix(
    model: Path | str,
    out: Path,
    *,
    lora: Path | str | None = None,
    calibration: CalibrationPlan | None = None,
    progress: Progress = SILENT,
) -> ImatrixRecord:
    """Run `model` over the calibration text and write the sums of squares of its inputs to the GGUF file `out`.

    Raises `InputError` for a damaged checkpoint or text.
    """
    spec = calibration or calibration_plan((), 64, 512, 0)
    check_measurable(spec)
    check_text(spec)
    folder, adapter = model_folder(model, progress=progress), adapter_folder(lora)
    from bitwright.formats.ggml.imatrix import write_imatrix
    from bitwright.formats.original import open_original
    from bitwright.pipeline.imatrix import measure
    from bitwright.pipeline.run import calibration_windows

    started = time.monotonic()
    source = open_original(folder, adapter)
    windows = calibration_windows(spec, folder, source, progress)
    found = measure(source, windows, progress=progress)
    write_imatrix(found, out)
    return ImatrixRecord(
        file=str(out),
        model=str(folder),
        model_fingerprint=source.facts.fingerprint,
        calibration=spec,
        calibration_sha256=windows.sha256,
        tensors=len(found.entries),
        tokens=windows.tokens.numel(),
        seconds=time.monotonic() - started,
        provenance=provenance(),
    )
