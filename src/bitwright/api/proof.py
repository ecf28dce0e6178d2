"""Hold an artifact against its original, and leave the verdict in it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bitwright.api.devices import check_device, devices_of
from bitwright.api.models import adapter_folder, model_folder
from bitwright.api.service import locate
from bitwright.core.atomic import sha256_file
from bitwright.core.device_request import CPU
from bitwright.core.documents import read_document
from bitwright.core.errors import BitwrightError, InputError, MismatchError, UsageError
from bitwright.core.plan import ArtifactFormat, ModelFacts, UseCase
from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.core.records import ArtifactFile, QuantRecord, ValidationRecord

if TYPE_CHECKING:
    from bitwright.calibration.corpora import TokenWindows

SELF_SEED_OFFSET = 1000  # evaluation text is never sampled with a seed that calibration is likely to use
SELF_TEMPERATURE = 0.8  # the usual default of engines: judged on what the model writes when it is used
SELF_NOTE = (
    "judged on text that the original wrote itself, which is easier than most: for a verdict that counts, "
    "give text of your own with --text"
)
WINDOWS, LENGTH = 32, 256
DECODERS: dict[ArtifactFormat, str] = {
    "gguf": "gguf",
    "compressed-tensors": "compressed-tensors",
    "gptq": "compressed-tensors",  # its unpacking; see formats/packed/gptq_reader.py
    "awq": "compressed-tensors",
    "bitsandbytes": "bitsandbytes",
    "fp8": "compressed-tensors",  # its products; see formats/scaled/reader.py
    "modelopt": "compressed-tensors",
    "safetensors": "torch",
}
QUANT_FILE = "quant.json"


def validate(
    artifact: Path | str,
    reference: Path | str,
    *,
    lora: Path | str | None = None,
    texts: Sequence[Path] = (),
    windows: int = WINDOWS,
    length: int = LENGTH,
    seed: int = 0,
    use_case: str = "chat",
    command: str | None = None,
    device: str = CPU,
    progress: Progress = SILENT,
) -> ValidationRecord:
    """Measure `artifact`, decoded from disk by a library that is not ours, against `reference`, with the adapter
    `lora` merged into it where one is given.

    Without `texts`, the reference writes the text itself, with seed `seed + 1000`. An artifact that bitwright wrote
    keeps the summary (GGUF key, model card); where that fails, `progress` says so and the record stands. Raises
    `MismatchError` for an artifact of another model, `UsageError` for text that it was calibrated on.
    """
    from bitwright.evaluation.validate import validate as measure
    from bitwright.facts.thresholds import thresholds
    from bitwright.formats.sniff import open_source

    check_device(device)
    row = thresholds(use_case)
    place, kind = locate(Path(artifact))
    check_texts(texts)
    folder = model_folder(reference, progress=progress)
    original, decoded = _reference(folder, adapter_folder(lora)), open_source(place)
    made = made_here(place)
    if made is not None:
        _check_origin(made, place, original.facts.fingerprint, str(folder))
        _check_unused(made, texts, ())
    drawn = windows_of(texts, folder, original, windows=windows, length=length, seed=seed, progress=progress)
    if made is not None:
        _check_unused(made, texts, drawn)
    record = measure(
        original,
        decoded,
        drawn,
        thresholds=row,
        decode=_decoder(folder),
        decoder=_decoder_name(kind),
        files=files_of(place, kind),
        command=command or _command(place, reference, lora, texts, windows, length, seed, row.use_case, device),
        devices=devices_of(device),
        progress=progress,
    )
    if not texts:
        record = msgspec.structs.replace(record, notes=(*record.notes, SELF_NOTE))
    record = _completed(record, original.facts, place, kind, seed)
    try:
        embed(record, place, kind)
    except BitwrightError as error:
        progress.say(f"the verdict was not left in the artifact: {error.message}")
    return record


def _reference(place: Path, adapter: Path | None) -> WeightSource:
    """What is judged against: any model that can be read, or a float one with an adapter merged in."""
    from bitwright.formats.original import open_original
    from bitwright.formats.sniff import open_source

    return open_source(place) if adapter is None else open_original(place, adapter)


def check_texts(texts: Sequence[Path]) -> None:
    """Refuse a missing file before anything long begins."""
    for path in texts:
        if not path.is_file():
            raise InputError(f"evaluation text `{path}` does not exist", hint="check the path given to --text")


def windows_of(
    texts: Sequence[Path],
    folder: Path,
    original: WeightSource,
    *,
    windows: int,
    length: int,
    seed: int,
    progress: Progress,
) -> list[TokenWindows]:
    """One set of windows per file, or one that the model writes."""
    from bitwright.calibration.corpora import windows_from_files
    from bitwright.calibration.selftext import self_windows

    if not texts:
        from bitwright.formats.original import other_weights

        weights, seed = other_weights(folder, original), seed + SELF_SEED_OFFSET
        return [
            self_windows(folder, windows, length, seed, temperature=SELF_TEMPERATURE, source=weights, progress=progress)
        ]
    return [windows_from_files([str(path)], folder, windows, length, seed) for path in texts]


def _completed(
    record: ValidationRecord, original: ModelFacts, place: Path, kind: ArtifactFormat, seed: int
) -> ValidationRecord:
    """The record with what identifies original, artifact and machine beside weights and libraries."""
    from bitwright.core.units import format_bytes
    from bitwright.facts.hardware import this_cpu
    from bitwright.formats.settings_hash import settings_sha256

    here = this_cpu()
    machine = f"{here.name}, {here.cores} cores, {format_bytes(here.memory_bytes)}"
    return msgspec.structs.replace(
        record,
        parameters=original.parameters,
        reference_bytes=original.bytes,
        seed=seed,
        settings_sha256=settings_sha256(place, kind),
        provenance=msgspec.structs.replace(record.provenance, hardware=machine),
    )


def files_of(place: Path, kind: ArtifactFormat) -> tuple[ArtifactFile, ...]:
    """The weight files as they are now, hashed."""
    if kind == "gguf":
        from bitwright.formats.ggml.summary import tensor_data_sha256

        return (ArtifactFile(name=place.name, bytes=place.stat().st_size, sha256=tensor_data_sha256(place)),)
    return tuple(
        ArtifactFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in sorted(place.glob("*.safetensors"))
    )


def embed(record: ValidationRecord, place: Path, kind: ArtifactFormat) -> None:
    """Leave the verdict in an artifact that bitwright wrote; the files of others are not touched."""
    from bitwright.evaluation.summary import model_card_section, summary

    if made_here(place) is None:
        return
    if kind == "gguf":
        from bitwright.formats.ggml.summary import embed_summary

        embed_summary(place, summary(record))
    else:
        from bitwright.formats.folders.model_card import embed_summary as embed_in_card

        embed_in_card(place, model_card_section(record), summary(record))


def home(place: Path) -> Path:
    """The folder that holds an artifact."""
    return place.parent if place.is_file() else place


def made_here(place: Path) -> QuantRecord | None:
    """The `quant.json` beside an artifact, or `None` where there is none or it speaks of other files."""
    path = home(place) / QUANT_FILE
    if not path.exists():
        return None
    made = read_document(QuantRecord, path)
    found = {place.name} if place.is_file() else {file.name for file in place.glob("*.safetensors")}
    return made if found & {file.name for file in made.files} else None


def _check_unused(made: QuantRecord, texts: Sequence[Path], drawn: Sequence[TokenWindows]) -> None:
    """Text that the artifact was fitted to cannot judge it: neither the same file, nor the same windows."""
    fitted = {Path(name).resolve() for name in made.calibration.source}
    used = [str(path) for path in texts if path.resolve() in fitted]
    used += [windows.name for windows in drawn if windows.sha256 == made.calibration_sha256]
    if used:
        raise UsageError(f"`{used[0]}` is the artifact's calibration text", hint="judge on a text that was not used")


def _check_origin(made: QuantRecord, place: Path, fingerprint: str, reference: str) -> None:
    """Shapes cannot tell two tunes of a model apart; `quant.json` can."""
    if made.plan.model.fingerprint != fingerprint:
        raise MismatchError(
            f"`{place}` was made from `{made.plan.model.path}`, not from `{reference}`",
            hint="give --reference the model that the artifact was made from",
        )


def _decoder(folder: Path) -> Callable[[list[int]], str]:
    from bitwright.calibration.corpora import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return lambda ids: str(tokenizer.decode(ids))


def _decoder_name(kind: ArtifactFormat) -> str:
    from importlib import metadata

    return f"{DECODERS[kind]} {metadata.version(DECODERS[kind])}"


def _command(
    place: Path,
    reference: Path | str,
    lora: Path | str | None,
    texts: Sequence[Path],
    windows: int,
    length: int,
    seed: int,
    use_case: UseCase,
    device: str,
) -> str:
    words = ["bitwright", "validate", str(place), "--reference", str(reference)]
    words += ["--lora", str(lora)] if lora else []
    for path in texts:
        words += ["--text", str(path)]
    words += ["--windows", str(windows), "--length", str(length), "--seed", str(seed), "--use-case", use_case]
    words += ["--device", device] if device != CPU else []
    return shlex.join(words)
