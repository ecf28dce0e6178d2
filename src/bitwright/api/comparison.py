"""Several artifacts of one model on the same windows: which is closest, which cannot be told apart, which to take."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from bitwright.api.proof import LENGTH, WINDOWS, made_here, validate
from bitwright.api.service import locate
from bitwright.api.texts import SEED, supply_of
from bitwright.core.atomic import write_bytes
from bitwright.core.comparison import ComparedText, ComparisonRecord, Entry, Pairing
from bitwright.core.device_request import CPU
from bitwright.core.documents import write_document
from bitwright.core.errors import UsageError
from bitwright.core.protocols import SILENT, Progress
from bitwright.core.provenance import provenance
from bitwright.core.records import Estimate, QuantRecord, ValidationRecord
from bitwright.core.units import format_bytes

COMPARISON_FILE, PAGE_FILE = "comparison.json", "comparison.html"
NO_NUMBERS = "gave logits that are not finite, and stands behind all others"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One artifact, its record, and how it was made where that is known."""

    name: str
    place: Path
    format: str
    record: ValidationRecord
    made: QuantRecord | None


def compare(
    artifacts: Sequence[Path | str],
    reference: Path | str,
    *,
    texts: Sequence[Path | str] = (),
    windows: int = WINDOWS,
    length: int = LENGTH,
    seed: int = SEED,
    use_case: str = "chat",
    profile: Path | None = None,
    reference_cache: Path | str | None = None,
    device: str = CPU,
    out: Path | None = None,
    progress: Progress = SILENT,
) -> ComparisonRecord:
    """Validate each of `artifacts` against `reference` as `validate` does, and put them in order by KL.

    The reference is walked once: its logits are kept, in `reference_cache` or for the time of this call. With `out`,
    the comparison is written there as a document and as a page, and each artifact's `validation.json` under its name.
    Raises `UsageError` for fewer than two artifacts or one given twice, and what `validate` raises.
    """
    import tempfile

    started = time.monotonic()
    names = names_of([locate(Path(artifact))[0] for artifact in artifacts])
    supply = supply_of(reference, texts=texts, length=length, seed=seed, progress=progress)
    judged = []
    with contextlib.ExitStack() as stack:
        kept = reference_cache or stack.enter_context(tempfile.TemporaryDirectory(prefix="bitwright-"))
        for artifact, name in zip(artifacts, names, strict=True):
            progress.say(f"judging {name}")
            place, kind = locate(Path(artifact))
            record = validate(
                artifact, reference, texts=texts, windows=windows, length=length, seed=seed, use_case=use_case,
                profile=profile, reference_cache=kept, device=device, supply=supply, progress=progress,
            )  # fmt: skip
            judged.append(Judged(name=name, place=place, format=kind, record=record, made=made_here(place)))
    words = ["bitwright", "compare", *map(str, artifacts), "--reference", str(reference)]
    words += [word for text in texts for word in ("--text", str(text))]
    words += ["--windows", str(windows), "--length", str(length), "--seed", str(seed), "--use-case", use_case]
    flags = {"--profile": profile, "--reference-cache": reference_cache, "--device": None if device == CPU else device}
    words += [word for flag, value in flags.items() if value is not None for word in (flag, str(value))]
    found = compared(judged, command=shlex.join(words), seconds=time.monotonic() - started)
    if out is not None:
        _write(found, judged, out)
    return found


def names_of(places: Sequence[Path]) -> list[str]:
    """The shortest ends of paths that tell them apart. Raises `UsageError` for fewer than two, or one given twice."""
    if len(places) < 2:
        raise UsageError("compare takes at least two artifacts", hint="bitwright validate judges one")
    parts = [place.resolve().parts for place in places]
    for path in parts:
        if parts.count(path) > 1:
            raise UsageError(f"`{Path(*path)}` is given twice", hint="give each artifact once")
    for depth in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(path[-depth:]) for path in parts]
        if len(set(ends)) == len(ends):
            return ends
    return [str(place) for place in places]


def compared(judged: Sequence[Judged], *, command: str, seconds: float) -> ComparisonRecord:
    """The order of artifacts that were judged on the same windows."""
    from bitwright.evaluation.ordering import Sample, confidence, groups, in_order, pairings

    samples = {one.name: _windows(one.record) for one in judged}
    whole = in_order([Sample(name, kl) for name, kl in samples.items() if kl is not None])
    first = judged[0].record
    floors = next((one.record.floors for one in judged if one.record.floors is not None), None)
    pairs = pairings(whole, floor=floors.bfloat16_kl if floors else 0.0)
    held = dict(zip((sample.name for sample in whole), groups(whole, pairs), strict=True))
    last = max(held.values(), default=0)
    order = [*held, *(one.name for one in judged if one.name not in held)]
    by_name = {one.name: one for one in judged}
    entries = tuple(
        _entry(by_name[name], samples[name], held.get(name, last + 1), held, pairs, first) for name in order
    )
    return ComparisonRecord(
        reference=first.reference,
        reference_fingerprint=first.reference_fingerprint,
        reference_bytes=first.reference_bytes,
        use_case=first.use_case,
        kl_limit=next((gate.limit for gate in first.gates if gate.measure == "kl_mean"), None),
        texts=tuple(
            ComparedText(name=text.name, sha256=text.sha256, windows=text.windows, length=text.length)
            for text in first.texts
        ),
        entries=entries,
        pairs=tuple(pairs),
        advised=None if (best := advised(entries)) is None else best.name,
        advice=advice(entries, first.use_case),
        said=tuple(in_words(entries, pairs)),
        confidence=confidence(len(whole)),
        floors=floors,
        notes=tuple(_notes(judged)),
        command=command,
        seconds=seconds,
        provenance=provenance(),
    )


def advised(entries: Sequence[Entry]) -> Entry | None:
    """The smallest that passes, or `None`."""
    return min((entry for entry in entries if entry.verdict == "PASS"), key=lambda entry: entry.bytes, default=None)


def advice(entries: Sequence[Entry], use_case: str) -> str:
    """Which to take, and why."""
    best, passed = advised(entries), sum(entry.verdict == "PASS" for entry in entries)
    if best is not None:
        why = "the only one that passes" if passed == 1 else f"the smallest of {passed} that pass"
        return f"Take {best.name} ({format_bytes(best.bytes)}): it is {why} for {use_case}."
    unsettled = [entry for entry in entries if entry.verdict == "INCONCLUSIVE"]
    if unsettled:
        best = min(unsettled, key=lambda entry: entry.bytes)
        return f"None has passed for {use_case} yet; {best.name} is not settled: give more windows."
    return f"None passes for {use_case}: take one that keeps more, or the original."


def in_words(entries: Sequence[Entry], pairs: Sequence[Pairing]) -> list[str]:
    """A sentence for each group, the closest first."""
    measured = [entry for entry in entries if entry.kl_mean is not None]
    found, before = [], ""
    for group in sorted({entry.group for entry in measured}):
        members = [entry.name for entry in measured if entry.group == group]
        leader = members[0]
        said = f"{_listed(members)} {'are' if len(members) > 1 else 'is'} "
        said += (
            "closest to the original" if group == 1 else f"farther than {before} by {_between(before, leader, pairs)}"
        )
        if len(members) > 1:
            gaps = "; ".join(f"{name} by {_between(leader, name, pairs)}" for name in members[1:])
            reason = next((p.reason for p in pairs if p.reason and p.closer == leader and p.other in members), "")
            said += (
                f", and cannot be told apart on these windows{f': {reason}' if reason else ''}. "
                f"Behind {leader} lies {gaps}. Choose among them by size or speed"
            )
        found.append(f"{said}.")
        before = leader
    return found + [f"{entry.name} {NO_NUMBERS}." for entry in entries if entry.kl_mean is None]


def _between(closer: str, other: str, pairs: Sequence[Pairing]) -> str:
    gap = next(pair.difference for pair in pairs if (pair.closer, pair.other) == (closer, other))
    return f"{gap.value:.2g} nats ({gap.low:.2g} to {gap.high:.2g})"


def _entry(
    one: Judged,
    windows: tuple[float, ...] | None,
    group: int,
    groups: dict[str, int],
    pairs: Sequence[Pairing],
    first: ValidationRecord,
) -> Entry:
    from bitwright.report.verdict_words import blame

    record, plan = one.record, None if one.made is None else one.made.plan
    leader = next((name for name, number in groups.items() if number == group), "")
    behind = next((p.difference for p in pairs if (p.closer, p.other) == (leader, one.name)), None)
    worst = max(record.texts, key=lambda text: text.kl_mean.value, default=None)
    tokens = sum(text.scored_tokens for text in record.texts)
    agreed = sum(text.top1_agreement.value * text.scored_tokens for text in record.texts)
    return Entry(
        name=one.name,
        artifact=record.artifact,
        format=one.format if plan is None else f"{plan.format} {plan.type}",
        verdict=record.verdict,
        bytes=record.artifact_bytes,
        bits_per_weight=8 * record.artifact_bytes / record.parameters if record.parameters else 0.0,
        memory_bytes=None if plan is None else plan.memory.total,
        context=None if plan is None else plan.memory.context,
        kl_mean=None if windows is None else _mean(windows),
        top1_agreement=agreed / tokens if tokens else None,
        perplexity_delta=None if worst is None else worst.perplexity_delta.value,
        group=group,
        behind=behind,
        failed=tuple(blame(gate, cure=True) for gate in record.gates if gate.verdict != "PASS"),
        artifact_sha256=record.artifact_sha256,
    )


def _windows(record: ValidationRecord) -> tuple[float, ...] | None:
    """Mean KL of every window of every text; None where one gave no numbers."""
    if not record.texts or any(gate.measure == "finite_logits" for gate in record.gates):
        return None
    return tuple(value for text in record.texts for value in text.window_kl)


def _notes(judged: Sequence[Judged]) -> list[str]:
    """What holds for all first, then what holds for one, under its name."""
    common = [note for note in judged[0].record.notes if all(note in one.record.notes for one in judged)]
    own = [f"{one.name}: {note}" for one in judged for note in one.record.notes if note not in common]
    return [*common, *own]


def _mean(windows: tuple[float, ...]) -> Estimate:
    import numpy as np

    from bitwright.evaluation.stats import positive_mean

    return positive_mean(np.array(windows))


def _write(found: ComparisonRecord, judged: Sequence[Judged], out: Path) -> None:
    from bitwright.report.compare_page import render_comparison

    write_document(found, out / COMPARISON_FILE)
    for one in judged:
        write_document(one.record, out / f"{one.name.replace('/', '_')}.validation.json")
    write_bytes(out / PAGE_FILE, render_comparison(found).encode())


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"
