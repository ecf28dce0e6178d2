"""The verdict in sentences: what it is, what it rests on, by how much a gate failed, what to do next.

What to do depends on what is to blame: a type with too few bits, something that is broken, the way it is served, or too
little text. Not here: names of measures (core/measures.py), digits (numbers.py).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from bitwright.core.measures import measure
from bitwright.core.records import Gate, ValidationRecord
from bitwright.report.numbers import digits, percent, share_span, span

BLAMED = 3  # gates in a sentence, the first with its figure
UNTIL = "--until-decided"


def verdict_sentence(validation: ValidationRecord) -> str:
    """The verdict as one plain sentence."""
    name, use = last_part(validation.artifact), validation.use_case
    if validation.verdict == "PASS":
        within = f"every measure stays within what {use} tolerates"
        return f"{name} predicts nearly as its original does: {within}.{_far(validation)}"
    blamed = [gate for gate in validation.gates if gate.verdict == validation.verdict]
    broken = [gate for gate in blamed if measure(gate.measure).blamed == "damage"]
    shown = (broken or blamed)[:BLAMED]
    listing = "; ".join([blame(shown[0]) + _named(validation, shown[0]), *(_briefly(gate) for gate in shown[1:])])
    left = len(blamed) - len(shown)
    more = f"; {left} more below" if left else ""
    if broken:
        return f"{name} is broken: {listing}{more}."
    if all(measure(gate.measure).blamed == "engine" for gate in blamed) and validation.verdict == "FAIL":
        return f"{name} is not served as it was judged: {listing}{more}."
    if validation.verdict == "FAIL":
        return f"{name} departs from its original by more than {use} tolerates: {listing}{more}."
    return f"Too little was measured to tell whether {name} is good enough for {use}: {listing}{more}."


def rests_on(validation: ValidationRecord) -> str:
    """How much was looked at, in one line beside the verdict."""
    texts = [f"{text.name} ({text.windows} windows of {text.length} tokens)" for text in validation.texts]
    return f"Judged on {', '.join(texts)}, with 95 % intervals." if texts else ""


def next_step(validation: ValidationRecord) -> tuple[str, str]:
    """What to do about the verdict, and the command that begins it; nothing after PASS."""
    gates = [gate for gate in validation.gates if gate.verdict == validation.verdict]
    if validation.verdict == "INCONCLUSIVE":
        return _undecided(validation, gates)
    if validation.verdict == "PASS":
        return "", ""
    blamed = {measure(gate.measure).blamed for gate in gates}
    doctor = shlex.join(
        ["bitwright", "doctor", validation.artifact, "--reference", validation.reference, *_adapter(validation)]
    )
    if "damage" in blamed:
        return (
            "Next: do not serve it. This command says what is broken, how that comes about and how it is mended:",
            doctor,
        )
    if blamed == {"engine"}:
        return "Next: change how it is served, the file itself is not to blame. The suspects stand below.", ""
    what = "Next: take a type that keeps more bits, or calibrate on text like yours."
    return f"{what} This command says which tensors would gain most by more bits:", f"{doctor} --explain"


def blame(gate: Gate, *, cure: bool = False) -> str:
    """One gate that did not pass, in words; with `cure`, what would decide one that is open."""
    known = measure(gate.measure)
    where = f" on {gate.text}" if gate.text else ""
    if known.kind == "count":
        return f"{gate.estimate.value:.0f} {known.words}{where}, where none is allowed"
    unit = f" {known.unit}" if known.unit else ""
    much = by_how_much(gate) if cure or gate.verdict == "FAIL" else ""
    return f"{known.words}{where} is {figure(gate)}{unit}, the limit is {limit_of(gate)}{f' ({much})' if much else ''}"


def _named(validation: ValidationRecord, gate: Gate) -> str:
    """Which settings, where the record holds them."""
    wrong = [one.where for one in validation.findings if one.severity == "error" and one.part == gate.measure]
    left = len(wrong) - BLAMED
    return f" ({', '.join(wrong[:BLAMED])}{f' and {left} more' if left > 0 else ''})" if wrong else ""


def _briefly(gate: Gate) -> str:
    """The same without figures, behind one that has them."""
    if measure(gate.measure).kind == "count":
        return blame(gate)
    where = f" on {gate.text}" if gate.text else ""
    return f"{measure(gate.measure).words}{where} ({by_how_much(gate) or 'also over the limit'})"


def by_how_much(gate: Gate) -> str:
    """`3.1 times the limit` after FAIL, what would decide it after INCONCLUSIVE; else nothing."""
    known, value = measure(gate.measure), gate.estimate.value
    if gate.verdict == "FAIL" and known.kind != "count" and gate.limit > 0 and value > 0:
        times = value / gate.limit
        return f"{times:.{1 if times < 10 else 0}f} times the limit" if times >= 1.1 else "just over the limit"
    if gate.verdict == "INCONCLUSIVE":
        if gate.windows_more:
            return f"about {gate.windows_more} more {known.drawn} would decide it"
        return "it lies on the limit: more text will not decide it"
    return ""


def figure(gate: Gate) -> str:
    """The estimate with its interval, in per cent where it is a share; what is counted has none."""
    kind = measure(gate.measure).kind
    if kind == "count":
        return f"{gate.estimate.value:.0f}"
    return (share_span if kind == "share" else span)(gate.estimate, gate.limit)


def limit_of(gate: Gate) -> str:
    """The limit as it is written beside the figure."""
    if measure(gate.measure).kind == "share":
        return percent(gate.limit).replace(".0 %", " %")
    return f"{gate.limit:g}"


def last_part(path: str) -> str:
    """Name of the file or folder at a path."""
    return path.rstrip("/").rpartition("/")[2] or path


def _far(validation: ValidationRecord) -> str:
    """How far that is, on the text that suffers most."""
    if not validation.texts:
        return ""
    worst = max(validation.texts, key=lambda text: text.kl_mean.value)
    where = f" on {worst.name}" if len(validation.texts) > 1 else ""
    return f" On average its predictions{where} lie {digits(worst.kl_mean.value)} nats per token from the original's."


def _adapter(validation: ValidationRecord) -> list[str]:
    """The option that names the adapter it was judged with: without it, what the adapter changed looks like damage."""
    words = shlex.split(validation.command)
    return words[words.index("--lora") :][:2] if "--lora" in words else []


def _undecided(validation: ValidationRecord, gates: Sequence[Gate]) -> tuple[str, str]:
    """More of what was too little, as far as more helps."""
    more = [gate for gate in gates if gate.windows_more]
    windows = [gate.windows_more for gate in more if gate.windows_more and measure(gate.measure).drawn == "windows"]
    if not more:
        cure = "Take a type that keeps more bits, or a use case that tolerates more."
        return f"Next: more text will not decide it, the artifact lies on the limit. {cure}", ""
    command = "" if UNTIL in validation.command else f"{validation.command} {UNTIL}"
    if windows:
        adds = "this command adds windows until nothing is open:" if command else "give it a larger --budget."
        return f"Next: about {max(windows)} more windows would decide it; {adds}", command
    drawn = measure(more[0].measure).drawn
    return f"Next: about {max(gate.windows_more or 0 for gate in more)} more {drawn} would decide it.", ""
