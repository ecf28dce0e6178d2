"""Documents in words on stdout.

Not here: widths and colour (screen.py), what is told of a plan (planner/explain.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bitwright.cli.behaviour_tables import print_behaviour
from bitwright.cli.foresight import preflight_rows
from bitwright.cli.screen import Screen, screen
from bitwright.core.documents import Document, to_json
from bitwright.core.records import (
    ConversionRecord,
    Gate,
    ImatrixRecord,
    Inspection,
    QuantRecord,
    ShipRecord,
    ValidationRecord,
)
from bitwright.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from bitwright.cli.fact_tables import FactTable
    from bitwright.core.explanation import Explanation
    from bitwright.core.machine import MachineCalibration
    from bitwright.core.preflight import Preflight

ARTIFACT = "{artifact}"  # stands for the path in a launch line
REFUSED_SHOWN = 3
KNOWN_TYPE, KNOWN_SIZE = "Q4_K", 7e9  # what people compare machines by
VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def print_json(document: Document) -> None:
    """The same bytes as in the file."""
    sys.stdout.write(to_json(document).decode())


def print_plan(told: Explanation, *, reasons: bool) -> None:
    """The answer, the ways it was chosen from, and what will be done; with `reasons`, why."""
    page = screen()
    page.line(told.answer, "bold")
    if told.ways:
        page.table(told.all_columns if reasons else told.columns, told.all_ways if reasons else told.ways)
        page.line(f"* the answer; predicted for {told.load}{'' if reasons else _more(told)}")
    for label, because, _ in () if reasons else told.refused[:REFUSED_SHOWN]:
        page.line(f"not offered: {label}: {because}", margin=2)
    page.line()
    page.pairs(told.summary)
    page.line()
    page.line("serve it with" + (", where {artifact} is its path" if ARTIFACT in told.launch else ""), "bold")
    page.command(told.launch)
    if reasons:
        page.table(("type", "tensors", "parameters", "size"), _type_rows(told))
        page.table(("choice", "because", "source"), told.reasons)
        page.table(("not offered", "because", "source"), told.refused)
    if told.warnings:
        page.line()
    for warning in told.warnings:
        page.line(f"warning: {warning}", "yellow", 2)


def _more(told: Explanation) -> str:
    """What --explain adds."""
    left, refused = len(told.all_ways) - len(told.ways), max(len(told.refused) - REFUSED_SHOWN, 0)
    return f"; {left + refused} more ways with --explain" if left + refused else "; the reasons with --explain"


def _type_rows(told: Explanation) -> list[tuple[str, ...]]:
    return [(kind, str(count), f"{parameters:,}", format_bytes(size)) for kind, count, parameters, size in told.types]


def print_dry_run(told: Explanation, found: Preflight) -> None:
    """The plan, and what the run would take."""
    import dataclasses

    print_plan(dataclasses.replace(told, warnings=()), reasons=False)
    print()
    print_preflight(found, whole=True)


def print_preflight(found: Preflight, *, whole: bool) -> None:
    """What a step will take: before it on stderr, in a few lines; for `--dry-run` on stdout, engines in full."""
    page = screen(sys.stdout if whole else sys.stderr)
    page.pairs(preflight_rows(found, whole=whole))
    if whole:
        rows = [
            (fit.engine, fit.scheme, f"{fit.devices}{' (here)' if fit.here else ''}", fit.kernel or "none", fit.how,
             fit.because)
            for fit in found.engines
        ]  # fmt: skip
        page.table(("engine", "type", "compute capability", "kernel", "how", "because"), rows)
    for warning in found.warnings:
        page.line(f"warning: {warning}", style="yellow")


def print_quant(record: QuantRecord, out: str) -> None:
    """What was made."""
    page = screen()
    worst = max(record.tensors, key=lambda tensor: tensor.output_error or 0.0, default=None)
    rows = [
        ("artifact", ", ".join(f"{out}/{file.name} ({format_bytes(file.bytes)})" for file in record.files)),
        ("type", f"{record.plan.format} {record.plan.type}, {record.plan.method}"),
        ("bits per weight", f"{record.plan.bits_per_weight:.2f}"),
        ("time", format_seconds(record.seconds)),
        ("peak memory", format_bytes(record.peak_memory_bytes)),
    ]
    if worst is not None and worst.output_error is not None:
        rows.append(("worst output error", f"{worst.output_error:.3g} ({worst.name})"))
    if (seen := record.experts) is not None:
        share = f"{seen.covered} of {seen.experts} covered by calibration"
        rows.append(("experts", f"{share}, {seen.fewest_tokens} to {seen.most_tokens} tokens each"))
    notes = sum(len(tensor.notes) for tensor in record.tensors)
    if notes:
        rows.append(("notes", f"{notes}, see quant.json"))
    page.pairs(rows)


def print_imatrix(record: ImatrixRecord) -> None:
    """What was measured."""
    rows = [
        ("importance matrix", record.file),
        ("tensors", str(record.tensors)),
        ("tokens", f"{record.tokens:,}"),
        ("time", format_seconds(record.seconds)),
    ]
    screen().pairs(rows)


def print_machine(found: MachineCalibration, path: str) -> None:
    """What was measured of this machine, and what it comes to."""
    rows = [
        ("machine", found.device if found.cores is None else f"{found.device}, {found.cores} cores"),
        ("copies", f"{found.copy_gb_s:.1f} GB/s"),
        *(
            (f"products of {row.tokens} × {row.inputs} × {row.outputs}", f"{1000 * row.tera_per_second:.0f} GFLOP/s")
            for row in found.products
        ),
        ("engine", found.engine or "none was run"),
        ("stored", path),
        ("time", format_seconds(found.seconds)),
    ]
    page = screen()
    for cost in found.types:
        if cost.type == KNOWN_TYPE:
            written = f"{1e9 / (cost.decode * KNOWN_SIZE):.3g} tokens/s of a model of 7 billion weights in {KNOWN_TYPE}"
            page.line(f"{found.device}: about {written}. Plans for this machine go by what was measured.", "bold")
            page.line()
    page.pairs(rows)
    if found.types:
        page.table(
            ("type", "ns a weight, one token", "ns a weight, prompts"),
            [(cost.type, f"{cost.decode:.4f}", f"{cost.prefill:.4f}") for cost in found.types],
        )


def print_conversion(record: ConversionRecord, out: str) -> None:
    """What was carried over, and the proof."""
    plan = record.plan
    screen().pairs(
        [
            ("artifact", ", ".join(f"{out}/{file.name} ({format_bytes(file.bytes)})" for file in record.files)),
            ("from", f"{record.source} ({record.source_format})"),
            ("to", f"{plan.format} {plan.type}, {plan.bits_per_weight:.2f} bits per weight"),
            ("proof", f"{record.values:,} values of {record.tensors} tensors decode alike in float32"),
            ("time", format_seconds(record.seconds)),
        ],
    )
    _notes(screen(), record.notes)


def print_validation(record: ValidationRecord) -> None:
    """Verdict, gates, and one line per text."""
    page = screen()
    page.line(record.verdict, VERDICT_STYLES[record.verdict])
    _gates(page, record.gates)
    page.table(
        ("text", "windows", "perplexity", "artifact", "ratio", "mean KL", "median", "p99", "same top token"),
        [
            (
                text.name,
                f"{text.windows} x {text.length}",
                f"{text.perplexity_reference.value:.4g}",
                f"{text.perplexity_artifact.value:.4g}",
                f"{text.perplexity_artifact.value / text.perplexity_reference.value:.4f}",
                f"{text.kl_mean.value:.4g}",
                f"{text.kl_median:.4g}",
                f"{text.kl_p99:.4g}",
                f"{text.top1_agreement.value:.1%}",
            )
            for text in record.texts
        ],
    )
    print_behaviour(page, record)
    if (floors := record.floors) is not None:
        page.line(
            f"floors: this measurement {floors.order_kl:.2g} nats, bfloat16 arithmetic {floors.bfloat16_kl:.2g} nats"
        )
    _notes(page, record.notes)
    _next(page, record)


def _next(page: Screen, record: ValidationRecord) -> None:
    """What to do about a verdict that is no PASS, as the page says it."""
    import shlex

    from bitwright.report.verdict_words import next_step

    what, command = next_step(record)
    if what:
        page.line()
        page.line(what, "bold")
    if command:
        page.command(shlex.split(command))


def print_ship(record: ShipRecord) -> None:
    """The end of the way: verdict, sizes, speeds, the report, and what the model said."""
    page = screen()
    page.line(record.verdict, VERDICT_STYLES[record.verdict])
    _gates(page, record.gates)
    _notes(page, record.notes)
    smaller = f"{record.original_bytes / record.artifact_bytes:.2f} times smaller"
    page.pairs(
        [
            ("artifact", f"{record.out}/{record.artifact}"),
            (
                "size",
                f"{format_bytes(record.artifact_bytes)} of {format_bytes(record.original_bytes)} ({smaller})",
            ),
            ("bits per weight", f"{record.bits_per_weight:.2f}"),
            ("report", f"{record.out}/{record.report}"),
            ("serve it with", record.launch),
        ],
    )
    if record.speed:
        base = record.speed[-1]
        page.table(
            ("speed", "size", "prompt tokens/s", "decode tokens/s", f"decode against {base.name}"),
            [
                (
                    point.name,
                    format_bytes(point.bytes),
                    f"{point.prompt_tokens_s:.1f}",
                    f"{point.decode_tokens_s:.1f}",
                    f"{point.decode_tokens_s / base.decode_tokens_s:.2f}",
                )
                for point in record.speed
            ],
        )
    if record.reply is not None:
        said = " ".join(record.reply.split())
        page.line(f"the served model says: {said}")


def print_inspection(found: Inspection) -> None:
    """Types and sizes of a file or folder."""
    page = screen()
    rows = [
        ("path", found.path),
        ("kind", found.kind),
        ("architecture", found.architecture),
        ("parameters", f"{found.parameters:,}"),
        ("size", f"{format_bytes(found.bytes)}, {found.bits_per_weight:.2f} bits per weight"),
        *_carried_rows(found),
    ]
    page.pairs(rows)
    if found.carried is not None and found.carried.changed:
        page.line("The verdict is of other bytes: judge this artifact again with `bitwright validate`.", "bold red")
    page.table(
        ("type", "tensors", "parameters", "size"),
        [(row.type, str(row.tensors), f"{row.parameters:,}", format_bytes(row.bytes)) for row in found.types],
    )
    page.table(("key", "value"), [(key, str(value)) for key, value in found.metadata.items()])


def _carried_rows(found: Inspection) -> list[tuple[str, str]]:
    carried = found.carried
    if carried is None:
        return [("verdict", "none: a checkpoint is what artifacts are judged against")]
    if carried.verdict is None:
        return [("verdict", carried.said)]
    since = f" since it was judged{f' on {carried.created[:10]}' if carried.created else ''}"
    words = {
        "unchanged": f"unchanged{since}",
        "changed": f"CHANGED{since}",
        "unknown": "not compared with those that were judged",
    }
    return [
        ("verdict", carried.said),
        ("weights", words[carried.weights]),
        ("settings", words[carried.settings]),
    ]


def print_facts(told: FactTable) -> None:
    """A table of facts, or pairs about one of them."""
    if told.head:
        screen().table(told.head, told.rows, sheds=told.sheds)
    else:
        screen().pairs([(what, value) for what, value in told.rows])


def _notes(page: Screen, notes: Sequence[str]) -> None:
    for note in notes:
        page.line(f"note: {note}")


def _gates(page: Screen, gates: Sequence[Gate]) -> None:
    rows = [
        (
            gate.measure,
            gate.text,
            f"{gate.estimate.value:.4g}",
            f"{gate.estimate.low:.4g} to {gate.estimate.high:.4g}" if gate.estimate.low < gate.estimate.high else "",
            f"{gate.limit:g}",
            gate.verdict,
        )
        for gate in gates
    ]
    page.table(("gate", "text", "measured", "95 % interval", "limit", "verdict"), rows)
