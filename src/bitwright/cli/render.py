"""Documents as tables on stdout. Only here is rich imported, and only when a table is wanted.

Colour repeats what a word already says, so nothing is lost under NO_COLOR or in a pipe. Nothing is cut to fit: outside
a terminal, tables are as wide as their content.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TextIO

from bitwright.cli.foresight import preflight_rows
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
from bitwright.planner.ways import COLUMNS

if TYPE_CHECKING:
    from rich.console import Console

    from bitwright.cli.fact_tables import FactTable
    from bitwright.core.machine import MachineCalibration
    from bitwright.core.preflight import Preflight
    from bitwright.planner.explain import Explanation

WIDE = 240
VERDICT_STYLES = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow"}


def print_json(document: Document) -> None:
    """The same bytes as in the file."""
    sys.stdout.write(to_json(document).decode())


def print_plan(told: Explanation, *, reasons: bool) -> None:
    """What will be done; with `reasons`, why."""
    console = _console()
    if told.ways:
        _table(console, COLUMNS, told.all_ways if reasons else told.ways)
        left = len(told.all_ways) - len(told.ways)
        more = (
            ""
            if reasons or not left + len(told.refused)
            else (f"; {left + len(told.refused)} more ways with --explain")
        )
        console.print(f"* planned below; figures are predictions{more}", markup=False, highlight=False)
        console.print()
    _pairs(console, told.summary)
    _table(
        console,
        ("type", "tensors", "parameters", "size"),
        [(kind, str(count), f"{parameters:,}", format_bytes(size)) for kind, count, parameters, size in told.types],
    )
    if reasons:
        _table(console, ("choice", "because", "source"), told.reasons)
        if told.refused:
            _table(console, ("refused", "because", "source"), told.refused)
    for warning in told.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def print_dry_run(told: Explanation, found: Preflight) -> None:
    """The plan, and what the run would take."""
    import dataclasses

    print_plan(dataclasses.replace(told, warnings=()), reasons=False)
    print()
    print_preflight(found, whole=True)


def print_preflight(found: Preflight, *, whole: bool) -> None:
    """What a step will take: before it on stderr, in a few lines; for `--dry-run` on stdout, engines in full."""
    console = _console(sys.stdout if whole else sys.stderr)
    _pairs(console, preflight_rows(found, whole=whole))
    if whole:
        rows = [
            (fit.engine, fit.scheme, f"{fit.devices}{' (here)' if fit.here else ''}", fit.kernel or "none", fit.how,
             fit.because)
            for fit in found.engines
        ]  # fmt: skip
        _table(console, ("engine", "type", "compute capability", "kernel", "", "because"), rows)
    for warning in found.warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False, highlight=False)


def print_quant(record: QuantRecord, out: str) -> None:
    """What was made."""
    console = _console()
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
    _pairs(console, rows)


def print_imatrix(record: ImatrixRecord) -> None:
    """What was measured."""
    rows = [
        ("importance matrix", record.file),
        ("tensors", str(record.tensors)),
        ("tokens", f"{record.tokens:,}"),
        ("time", format_seconds(record.seconds)),
    ]
    _pairs(_console(), rows)


def print_machine(found: MachineCalibration, path: str) -> None:
    """What was measured of this machine."""
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
    console = _console()
    _pairs(console, rows)
    if found.types:
        _table(
            console,
            ("type", "ns a weight, one token", "ns a weight, prompts"),
            [(cost.type, f"{cost.decode:.4f}", f"{cost.prefill:.4f}") for cost in found.types],
        )


def print_conversion(record: ConversionRecord, out: str) -> None:
    """What was carried over, and the proof."""
    plan = record.plan
    _pairs(
        _console(),
        [
            ("artifact", ", ".join(f"{out}/{file.name} ({format_bytes(file.bytes)})" for file in record.files)),
            ("from", f"{record.source} ({record.source_format})"),
            ("to", f"{plan.format} {plan.type}, {plan.bits_per_weight:.2f} bits per weight"),
            ("proof", f"{record.values:,} values of {record.tensors} tensors decode alike in float32"),
            ("time", format_seconds(record.seconds)),
        ],
    )
    _notes(_console(), record.notes)


def print_validation(record: ValidationRecord) -> None:
    """Verdict, gates, and one line per text."""
    console = _console()
    console.print(record.verdict, style=VERDICT_STYLES[record.verdict])
    _gates(console, record.gates)
    _table(
        console,
        ("text", "windows", "perplexity", "artifact", "mean KL", "median", "p99", "same top token"),
        [
            (
                text.name,
                f"{text.windows} x {text.length}",
                f"{text.perplexity_reference.value:.4g}",
                f"{text.perplexity_artifact.value:.4g}",
                f"{text.kl_mean.value:.4g}",
                f"{text.kl_median:.4g}",
                f"{text.kl_p99:.4g}",
                f"{text.top1_agreement.value:.1%}",
            )
            for text in record.texts
        ],
    )
    _notes(console, record.notes)


def print_ship(record: ShipRecord) -> None:
    """The end of the way: verdict, sizes, speeds, the report, and what the model said."""
    console = _console()
    console.print(record.verdict, style=VERDICT_STYLES[record.verdict])
    _gates(console, record.gates)
    _notes(console, record.notes)
    smaller = f"{record.original_bytes / record.artifact_bytes:.2f} times smaller"
    _pairs(
        console,
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
        _table(
            console,
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
        console.print(f"the served model says: {said}", markup=False, highlight=False, soft_wrap=True)


def print_inspection(found: Inspection) -> None:
    """Types and sizes of a file or folder."""
    console = _console()
    rows = [
        ("path", found.path),
        ("kind", found.kind),
        ("architecture", found.architecture),
        ("parameters", f"{found.parameters:,}"),
        ("size", f"{format_bytes(found.bytes)}, {found.bits_per_weight:.2f} bits per weight"),
        ("validation", found.summary or "none embedded"),
    ]
    _pairs(console, rows)
    _table(
        console,
        ("type", "tensors", "parameters", "size"),
        [(row.type, str(row.tensors), f"{row.parameters:,}", format_bytes(row.bytes)) for row in found.types],
    )
    _table(console, ("key", "value"), [(key, str(value)) for key, value in found.metadata.items()])


def print_facts(told: FactTable) -> None:
    """A table of facts, or pairs about one of them."""
    if told.head:
        _table(_console(), told.head, told.rows)
    else:
        _pairs(_console(), [(what, value) for what, value in told.rows])


def _notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        console.print(f"note: {note}", markup=False, highlight=False)


def _gates(console: Console, gates: Sequence[Gate]) -> None:
    rows = [
        (
            gate.measure,
            gate.text,
            f"{gate.estimate.value:.4g}",
            f"{gate.estimate.low:.4g} to {gate.estimate.high:.4g}",
            f"{gate.limit:g}",
            gate.verdict,
        )
        for gate in gates
    ]
    _table(console, ("gate", "text", "measured", "95 % interval", "limit", "verdict"), rows)


def _pairs(console: Console, rows: Iterable[tuple[str, str]]) -> None:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for what, value in rows:
        table.add_row(_plain(what), _plain(value))
    console.print(table)


def _table(console: Console, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*map(_plain, row))
    if table.row_count:
        console.print()
        console.print(table)


def _plain(text: str) -> str:
    """Names and tokens are not ours: brackets in them are no markup."""
    from rich.markup import escape

    return escape(text)


def _console(stream: TextIO | None = None) -> Console:
    from rich.console import Console

    stream = stream or sys.stdout
    if stream.isatty():
        return Console(highlight=False, file=stream)
    return Console(
        highlight=False, width=WIDE, no_color=True, force_terminal=False, color_system=None, legacy_windows=False,
        file=stream,
    )  # fmt: skip
