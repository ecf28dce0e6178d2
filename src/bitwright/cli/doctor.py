"""`bitwright doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bitwright import api
from bitwright.api.examination import LENGTH, WINDOWS
from bitwright.api.texts import SEED
from bitwright.cli import options, render
from bitwright.cli.progress import progress
from bitwright.cli.screen import Screen, screen
from bitwright.core.documents import write_document
from bitwright.core.errors import EXIT_DONE, EXIT_GATE_FAILED
from bitwright.core.units import format_bytes

if TYPE_CHECKING:
    from bitwright.core.diagnosis import DoctorRecord
    from bitwright.core.findings import Diagnosis
    from bitwright.core.records import Estimate

EPILOG = """\b
Examples:
  bitwright doctor q4 --reference demo
  bitwright doctor model-Q4_K_M.gguf --reference ./Llama-3.2-1B --text notes.txt --explain
Exit codes: 0 nothing that breaks the model, 1 something does."""
STYLES = {"error": "bold red", "warning": "yellow"}
ALIKE_SHOWN = 3  # places of findings that say the same

Explain = Annotated[
    bool, typer.Option("--explain", help="Also the error of every layer, loud channels, and what more bits would give.")
]


def run(
    artifact: options.Artifact,
    reference: options.Reference,
    lora: options.Lora = None,
    text: options.Text = None,
    windows: options.Windows = WINDOWS,
    length: options.Length = LENGTH,
    seed: options.JudgingSeed = SEED,
    explain: Explain = False,
    out: options.OutFile = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Say what is wrong with an artifact: which tensor or setting, how it came about, and how it is mended."""
    record = api.doctor(
        artifact,
        reference,
        lora=lora,
        texts=text or (),
        windows=windows,
        length=length,
        seed=seed,
        advise=explain,
        progress=progress(quiet),
    )
    if out is not None:
        write_document(record, out)
    render.print_json(record) if json else print_diagnosis(record, explain=explain)
    return EXIT_DONE if record.healthy else EXIT_GATE_FAILED


def print_diagnosis(record: DoctorRecord, *, explain: bool) -> None:
    """The verdict, what was found, and with `explain` the figures behind it."""
    page = screen()
    count = len(record.errors)
    if count:
        page.line(f"broken: {count} {'finding breaks' if count == 1 else 'findings break'} the model", "bold red")
    else:
        page.line(
            f"healthy: {record.tensors} tensors and all settings are the reference's, but for rounding", "bold green"
        )
    for alike in _alike(record.findings):
        _print_finding(page, alike)
    for symptom in record.symptoms:
        page.line()
        page.line(f"may show as: {symptom.symptom}")
        page.line(f"{symptom.because}: {symptom.fix} [{symptom.source}]", margin=2)
    if explain or len(record.parts) > 1:
        _print_parts(page, record)
    if explain:
        _print_figures(page, record)
    for note in record.notes:
        page.line(f"note: {note}")


def _alike(findings: tuple[Diagnosis, ...]) -> list[list[Diagnosis]]:
    """Findings of one rule in different tensors told once."""
    found: dict[tuple[str, str], list[Diagnosis]] = {}
    for finding in findings:
        key = (finding.rule, finding.fix if finding.part == "settings" else "")
        found.setdefault(key, []).append(finding)
    return list(found.values())


def _print_finding(page: Screen, alike: list[Diagnosis]) -> None:
    first = alike[0]
    more = [finding.where for finding in alike[1 : ALIKE_SHOWN + 1]]
    left = len(alike) - 1 - len(more)
    page.line()
    page.line(f"{first.severity}: {first.where}: {first.says}", STYLES[first.severity])
    if more:
        page.line(f"also {', '.join(more)}{f' and {left} more' if left else ''}", margin=2)
    if first.evidence:
        page.line("seen: " + ", ".join(f"{name} {value:.4g}" for name, value in first.evidence.items()), margin=2)
    page.line(f"likely: {first.cause} [{first.source}]", margin=2)
    page.line(f"fix: {first.fix}", margin=2)


def _print_parts(page: Screen, record: DoctorRecord) -> None:
    page.table(
        ("part", "tensors", "broken", "fewest bits", "largest error", "of"),
        [
            (row.part, str(row.tensors), str(row.broken), f"{row.bits:.2f}", _figure(row.error), row.worst)
            for row in record.parts
        ],
    )


def _print_figures(page: Screen, record: DoctorRecord) -> None:
    page.table(
        ("after block", "error of the residual stream", "KL through the head"),
        [
            ("embedding", _figure(layer.activation_error), "")  # no KL is taken there
            if layer.layer < 0
            else (str(layer.layer), _figure(layer.activation_error), _figure(layer.kl))
            for layer in record.layers
        ],
    )
    page.table(
        ("after block", "loud channels", "times the median"),
        [(str(row.layer), ", ".join(map(str, row.channels)), f"{row.loudest:.0f}") for row in record.outliers],
    )
    page.table(
        ("would gain by more bits", "bits", "to", "costs", "saves nats per token", "predicted"),
        [
            (
                row.tensor,
                f"{row.bits:.2f}",
                row.to,
                format_bytes(row.bytes),
                _estimate(row.kl),
                f"{row.predicted:.2g}",
            )
            for row in record.advice
        ],
    )
    if record.advised is not None:
        all_of_them = f"{format_bytes(record.advised.bytes)} and save {_estimate(record.advised.kl)}"
        page.line(f"all of these cost {all_of_them}; make it again with")
        page.command([word for row in record.advice for word in row.option.split()])
    page.table(
        ("no file shows", "measure so"), [(f"{row.symptom}: {row.because}", row.measure) for row in record.elsewhere]
    )


def _estimate(found: Estimate) -> str:
    return f"{found.value:.2g} [{found.low:.2g}, {found.high:.2g}]"


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3g}"


run.__name__ = "doctor"
