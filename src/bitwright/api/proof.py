"""Hold an artifact against its original, and leave the verdict in it."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bitwright.api.behaviour import NOTHING, Behaviour, add_behaviour
from bitwright.api.devices import check_device, devices_of
from bitwright.api.kept import floors_of, reference_cache_of
from bitwright.api.service import locate
from bitwright.api.settings import watched_for_gates
from bitwright.api.texts import SEED, Supply, files_among, supply_of
from bitwright.core.atomic import sha256_file
from bitwright.core.device_request import CPU
from bitwright.core.documents import read_document
from bitwright.core.errors import BitwrightError, MismatchError, UsageError
from bitwright.core.plan import ArtifactFormat, ModelFacts, UseCase
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.records import ArtifactFile, QuantRecord, ValidationRecord

if TYPE_CHECKING:
    from bitwright.calibration.corpora import TokenWindows
    from bitwright.evaluation.sampling import Sampling

SELF_NOTE = (
    "judged on text that the original wrote itself, which is easier than most: for a verdict that counts, "
    "give text of your own with --text"
)
START_NOTE = (
    "windows were taken in order from the start of the text: figures and intervals are about its beginning; "
    "without --seed 0 they are drawn from all of it"
)
WINDOWS, LENGTH = 32, 256
GROWTH = 16  # times the first windows, at most, where windows are added until gates are decided
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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class UntilDecided:
    """Add windows until every gate is decided: up to `max_windows` of each text, for `budget_seconds` at most."""

    max_windows: int | None = None  # 16 times the first
    budget_seconds: float = math.inf


def validate(
    artifact: Path | str,
    reference: Path | str,
    *,
    lora: Path | str | None = None,
    texts: Sequence[Path | str] = (),
    windows: int = WINDOWS,
    length: int = LENGTH,
    seed: int = SEED,
    use_case: str = "chat",
    profile: Path | None = None,
    until_decided: UntilDecided | None = None,
    reference_cache: Path | str | None = None,
    behaviour: Behaviour = NOTHING,
    command: str | None = None,
    device: str = CPU,
    supply: Supply | None = None,
    progress: Progress = SILENT,
) -> ValidationRecord:
    """Measure `artifact`, decoded from disk by a library that is not ours, against `reference`, with the adapter
    `lora` merged into it where one is given, by the limits of `use_case`, or of `profile`; `behaviour` asks for more.

    `texts` are files, `NAME=FILE`, or `self`: without any, the reference writes the text itself, with `seed` + 1000;
    `reference_cache` keeps its logits (`auto`: in the user's cache), `supply` windows drawn for another artifact.
    Raises `MismatchError` for an artifact of another model, `UsageError` for text it was calibrated on.
    """
    from bitwright.evaluation.validate import validate as measure
    from bitwright.facts.thresholds import read_profile, thresholds
    from bitwright.formats.sniff import open_source

    check_device(device)
    place, kind = locate(Path(artifact))
    behaviour.check(kind)
    limits = thresholds(use_case) if profile is None else read_profile(profile, use_case)
    asked = supply_of(reference, lora=lora, texts=texts, length=length, seed=seed, progress=progress)
    check_apart(place, asked.folder)
    folder, original, decoded = asked.folder, asked.original, open_source(place)
    supply = supply or asked
    drawn = behaviour.fitting(_unused_windows(made_here(place), place, supply, texts, windows), original.facts)
    flags = _flags(behaviour, device, lora=lora, profile=profile, reference_cache=reference_cache)
    watched, soundness = watched_for_gates(folder, place, original, decoded, drawn[0].tokens, progress)
    record = measure(
        original,
        watched,
        drawn,
        thresholds=limits,
        decode=_decoder(folder),
        decoder=_decoder_name(kind),
        files=files_of(place, kind),
        command=command or _command(place, reference, texts, supply, windows, limits.use_case, until_decided, flags),
        devices=devices_of(device),
        progress=progress,
        soundness=soundness,
        sampling=_sampling(until_decided, supply, windows),
        cache=reference_cache_of(reference_cache, original.facts.fingerprint),
        floors=lambda tokens: floors_of(original, tokens, devices=devices_of(device), progress=progress),
    )
    record = add_behaviour(record, original, decoded, behaviour, limits, drawn, folder, place, seed, progress)
    notes = _text_notes(supply, drawn, windows, bool(texts))
    return _finished(_completed(record, original.facts, place, kind, seed), place, kind, notes, progress)


def _unused_windows(
    made: QuantRecord | None, place: Path, supply: Supply, texts: Sequence[Path | str], windows: int
) -> list[TokenWindows]:
    """The first windows of every text, after checks that artifact and reference belong together and that the artifact
    was not fitted to what judges it.
    """
    if made is None:
        return supply.first(windows)
    _check_origin(made, place, supply.original.facts.fingerprint, str(supply.folder))
    _check_unused(made, files_among(texts), supply)
    return supply.first(windows)


def _text_notes(supply: Supply, drawn: Sequence[TokenWindows], windows: int, own_text: bool) -> list[str]:
    """What the choice of windows means for the figures. A file that gave fewer than `windows` was read whole."""
    if not own_text:
        return [SELF_NOTE]
    cut = (text.path and len(found.tokens) >= windows for text, found in zip(supply.texts, drawn, strict=False))
    return [START_NOTE] if not supply.seed and any(cut) else []


def _finished(
    record: ValidationRecord, place: Path, kind: ArtifactFormat, notes: Sequence[str], progress: Progress
) -> ValidationRecord:
    """The record with `notes`, left in the artifact where it may be."""
    record = msgspec.structs.replace(record, notes=(*record.notes, *notes))
    try:
        embed(record, place, kind)
    except BitwrightError as error:
        progress.say(f"the verdict was not left in the artifact: {error.message}")
    return record


def _sampling(until_decided: UntilDecided | None, supply: Supply, windows: int) -> Sampling | None:
    """When to look, where windows may be added."""
    from bitwright.evaluation.sampling import Sampling, doubling

    if until_decided is None:
        return None
    asked = until_decided.max_windows or GROWTH * windows
    if asked < windows:
        raise UsageError(f"--max-windows {asked} is less than --windows {windows}", hint="give a larger number")
    looks = doubling(windows, max(windows, supply.most(asked)))
    return Sampling(looks=looks, more=supply.windows, budget_seconds=until_decided.budget_seconds)


def check_apart(place: Path, folder: Path) -> None:
    """An artifact that is held against itself has lost nothing, whatever is wrong with it."""
    from bitwright.formats.sniff import gguf_file, sniff

    original = gguf_file(folder) if folder.is_dir() and sniff(folder) == "gguf" else folder
    if place.resolve() == original.resolve():
        raise UsageError(
            f"`{place}` would be held against itself", hint="give --reference the model that it was made from"
        )


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


def write_report(record: ValidationRecord, artifact: Path | str, page: Path) -> None:
    """The record as a page of HTML, with how the artifact was made where that lies beside it."""
    from bitwright.core.atomic import write_bytes
    from bitwright.report.html import render

    made = made_here(locate(Path(artifact))[0])
    write_bytes(page, render(None if made is None else made.plan, made, record).encode())


def _check_unused(made: QuantRecord, texts: Sequence[Path], supply: Supply) -> None:
    """Text that the artifact was fitted to cannot judge it: neither the same file, nor a copy of it, from which the
    windows of the calibration come out again.
    """
    fitted = {Path(name).resolve() for name in made.calibration.source}
    used = [path for path in texts if path.resolve() in fitted]
    if made.calibration_sha256 and not used:  # else it was calibrated on no text
        used = [path for path in texts if supply.calibrated(path, made) == made.calibration_sha256]
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


def _flags(behaviour: Behaviour, device: str, **given: Path | str | None) -> dict[str, object]:
    """Flags that may be given, by their names, with the values that they were given."""
    named = {f"--{name.replace('_', '-')}": value for name, value in given.items()}
    return {**named, **behaviour.flags(), "--device": None if device == CPU else device}


def _command(
    place: Path,
    reference: Path | str,
    texts: Sequence[Path | str],
    supply: Supply,
    windows: int,
    use_case: UseCase,
    until_decided: UntilDecided | None,
    flags: Mapping[str, object],
) -> str:
    """The command line that measures the same again; `flags` that have a value follow."""
    words = ["bitwright", "validate", str(place), "--reference", str(reference)]
    for text in texts:
        words += ["--text", str(text)]
    words += ["--windows", str(windows), "--length", str(supply.length), "--seed", str(supply.seed)]
    words += ["--use-case", use_case]
    if until_decided is not None:
        words += ["--until-decided"]
        words += ["--max-windows", str(until_decided.max_windows)] if until_decided.max_windows else []
        words += ["--budget", f"{until_decided.budget_seconds:g}s"] if until_decided.budget_seconds < math.inf else []
    for flag, value in flags.items():
        for one in value if isinstance(value, tuple) else (value,):
            words += [flag, str(one)] if one else []
    return shlex.join(words)
