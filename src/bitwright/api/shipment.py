"""The whole way: plan → quantize → validate → measure → report, and a check that it answers.

Each step leaves a document in `out`. A second call compares the documents with what is asked and with the files, skips
what stands, and goes on behind it. An interruption costs one decoder block while quantizing; sampling, validation and
the measurement of speed are done again from their beginning.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.api.behaviour import AUTO, NOTHING, Behaviour
from bitwright.api.decision import make_plan, settle
from bitwright.api.devices import check_device, device_for
from bitwright.api.making import quantize
from bitwright.api.models import model_folder
from bitwright.api.preflight import is_made, preflight, refuse_full_disk
from bitwright.api.proof import LENGTH, WINDOWS, files_of, validate
from bitwright.api.service import QUESTION, chat, locate, serve
from bitwright.api.speed import measure_speed, remove_twin
from bitwright.api.texts import SEED, SELF_SEED_OFFSET, SELF_TEMPERATURE, NamedText, files_among, named_texts
from bitwright.core.atomic import write_bytes
from bitwright.core.device_request import CPU
from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import BitwrightError, MismatchError, UsageError
from bitwright.core.plan import CalibrationPlan, Override, Plan
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import QuantRecord, ShipRecord, SpeedRecord, ValidationRecord

if TYPE_CHECKING:
    from bitwright.planner.wish import Wish

VALIDATION_FILE, REPORT_FILE = "validation.json", "report.html"
# From fewer bits to more, as GGUF presets and as compressed-tensors labels.
NEXT_TYPES = {
    "Q2_K_S": "Q2_K", "Q2_K": "Q3_K_M", "Q3_K_S": "Q3_K_M", "Q3_K_M": "Q4_K_M", "Q3_K_L": "Q4_K_M",
    "IQ4_XS": "Q4_K_M", "IQ4_NL": "Q4_K_M", "MXFP4": "Q4_K_M",
    "Q4_0": "Q4_K_M", "Q4_1": "Q4_K_M", "Q4_K_S": "Q4_K_M", "Q4_K_M": "Q5_K_M", "Q5_0": "Q5_K_M", "Q5_1": "Q5_K_M",
    "Q5_K_S": "Q5_K_M", "Q5_K_M": "Q6_K", "Q6_K": "Q8_0", "Q8_0": "BF16",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationText:
    """On what `ship` judges: files, NAME=FILE, or self. None: the original writes the text. `ask_engine` also starts
    the engine that serves, and holds what it predicts against what the file says."""

    files: tuple[Path | str, ...] = ()
    windows: int = WINDOWS
    length: int = LENGTH
    seed: int = SEED
    ask_engine: bool = False

    @property
    def behaviour(self) -> Behaviour:
        """What `validate` is asked for beside the text."""
        return Behaviour(through=AUTO) if self.ask_engine else NOTHING


def ship(
    model: Path | str,
    out: Path,
    *,
    target: str = "auto",
    use_case: str = "chat",
    format: str | None = None,
    type: str | None = None,
    overrides: Sequence[Override] = (),
    lora: Path | str | None = None,
    calibration: CalibrationPlan | None = None,
    plan: Plan | None = None,
    wish: Wish | None = None,
    text: EvaluationText | None = None,
    once: bool = False,
    keep_float: bool = False,
    device: str = CPU,
    progress: Progress = SILENT,
) -> ShipRecord:
    """Make, prove, measure and report an artifact of `model` in `out`; with `once`, also serve it and ask one question.

    What is not given is planned, for the load and limits of the `wish`; a `plan` decides alone, and what would go into
    one is not looked at. Speed is measured for formats that an engine on this machine runs; where that fails, the
    record has none. Raises what the other steps raise, and `MismatchError` when `out` was begun with something else.
    """
    text = text or EvaluationText()
    check_judging(calibration if plan is None else plan.calibration, text)
    check_device(device)
    plan = plan or make_plan(
        model,
        target=target,
        use_case=use_case,
        format=format,
        type=type,
        overrides=overrides,
        lora=lora,
        calibration=calibration,
        wish=wish,
        progress=progress,
    )
    text.behaviour.check(plan.format)
    if not is_made(out):
        refuse_full_disk(preflight(plan, out, text=text))
    adapter = plan.model.adapter  # where it lies now; `out` may have been begun with it elsewhere
    plan = settle(plan, out)
    folder = model_folder(model, progress=progress)
    progress.say(f"plan: {plan.format} {plan.type}")
    quant = _quantized(plan, folder, adapter, out, device, progress)
    validation = _validated(plan, quant, folder, adapter, out, text, device, progress)
    progress.say(f"verdict: {validation.verdict}")
    _report(plan, quant, validation, None, out)
    speed = _speed(plan, folder, adapter, out, keep_float, progress)
    if speed is not None:
        _report(plan, quant, validation, speed, out)
    reply = _ask(out) if once and validation.verdict != "FAIL" and plan.format == "gguf" else None
    return _record(plan, quant, validation, speed, out, reply)


def _quantized(plan: Plan, folder: Path, adapter: str, out: Path, device: str, progress: Progress) -> QuantRecord:
    """Make the artifact, or take the one that stands, after comparing its bytes with its record."""
    record = quantize(plan, out, model=folder, lora=adapter, device=device_for(plan, device), progress=progress)
    found = {file.name: file.sha256 for file in files_of(*locate(out))}
    for file in record.files:
        if found.get(file.name) != file.sha256:
            raise MismatchError(
                f"`{out / file.name}` has changed since it was made", hint=f"remove `{out}` to make it again"
            )
    return record


def _validated(
    plan: Plan,
    quant: QuantRecord,
    folder: Path,
    adapter: str,
    out: Path,
    text: EvaluationText,
    device: str,
    progress: Progress,
) -> ValidationRecord:
    path = out / VALIDATION_FILE
    if path.exists():
        record = read_document(ValidationRecord, path)
        if _still_holds(record, plan, quant, folder, text):
            return record
    record = validate(
        out,
        folder,
        lora=adapter,
        texts=text.files,
        windows=text.windows,
        length=text.length,
        seed=text.seed,
        use_case=plan.use_case,
        behaviour=text.behaviour,
        device=device,
        progress=progress,
    )
    write_document(record, path)
    return record


def _still_holds(record: ValidationRecord, plan: Plan, quant: QuantRecord, folder: Path, text: EvaluationText) -> bool:
    """Whether a validation is of this artifact, on this text, for this use."""
    same_pair = (
        record.reference_fingerprint == plan.model.fingerprint
        and sorted(record.artifact_sha256) == sorted(file.sha256 for file in quant.files)
        and record.use_case == plan.use_case
        and (record.engine is not None or not text.ask_engine)
    )
    if not same_pair:
        return False
    wanted = [_drawn(named, folder, text) for named in named_texts(text.files)]
    return [(result.name, result.windows, result.length) for result in record.texts] == [
        (name, windows, text.length) for name, windows, _ in wanted
    ] and all(sha in ("", result.sha256) for result, (_, _, sha) in zip(record.texts, wanted, strict=True))


def _drawn(named: NamedText, folder: Path, text: EvaluationText) -> tuple[str, int, str]:
    """Name, windows and hash of one text as it would be read now; no hash where the model would have to write it."""
    from bitwright.calibration.corpora import windows_from_files
    from bitwright.calibration.selftext import self_name

    if named.path is None:
        return self_name(text.seed + SELF_SEED_OFFSET, SELF_TEMPERATURE), text.windows, ""
    drawn = windows_from_files([str(named.path)], folder, text.windows, text.length, text.seed)
    return named.name or drawn.name, len(drawn.tokens), drawn.sha256


def _speed(
    plan: Plan, folder: Path, adapter: str, out: Path, keep_float: bool, progress: Progress
) -> SpeedRecord | None:
    """The measurement, or `None` when it fails: the verdict stands without it."""
    try:
        return measure_speed(plan, folder, out, lora=adapter, keep_float=keep_float, progress=progress)
    except BitwrightError as error:
        progress.say(f"speed was not measured: {error.message}")
        if not keep_float:
            remove_twin(out)
        return None


def _report(plan: Plan, quant: QuantRecord, validation: ValidationRecord, speed: SpeedRecord | None, out: Path) -> None:
    from bitwright.report.html import render

    write_bytes(out / REPORT_FILE, render(plan, quant, validation, speed).encode())


def _ask(out: Path) -> str:
    with serve(out, port=0) as server:
        return chat(server.url, QUESTION)


def _record(
    plan: Plan,
    quant: QuantRecord,
    validation: ValidationRecord,
    speed: SpeedRecord | None,
    out: Path,
    reply: str | None,
) -> ShipRecord:
    return ShipRecord(
        out=str(out),
        verdict=validation.verdict,
        format=plan.format,
        type=plan.type,
        artifact=quant.files[0].name if plan.format == "gguf" else ".",
        artifact_bytes=sum(file.bytes for file in quant.files),
        original_bytes=plan.model.bytes,
        bits_per_weight=plan.bits_per_weight,
        gates=validation.gates,
        notes=validation.notes,
        speed=speed.points if speed is not None else (),
        report=REPORT_FILE,
        try_next=next_type(plan) if validation.verdict == "FAIL" else None,
        reply=reply,
        launch=shlex.join(str(out) if word == "{artifact}" else word for word in plan.launch),
    )


def next_type(plan: Plan) -> str | None:
    """A type of the same format that keeps more, or `None` when there is none."""
    if plan.overrides:
        return None  # which of them to ask otherwise is for the person to say
    if plan.format == "gguf":
        return NEXT_TYPES.get(plan.type)
    return plan.type.replace("W4", "W8") if plan.type.startswith("W4") else None


def check_judging(calibration: CalibrationPlan | None, text: EvaluationText) -> None:
    """Refuse a missing text, and one that the artifact is fitted to: it cannot judge it."""
    files = files_among(text.files)
    fitted = {Path(name).resolve() for name in calibration.source} if calibration is not None else set()
    for path in files:
        if path.resolve() in fitted:
            raise UsageError(
                f"`{path}` is both calibration and evaluation text", hint="judge on a text that was not used"
            )
