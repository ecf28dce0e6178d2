"""`bitwright compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright import api
from bitwright.api.proof import LENGTH, WINDOWS
from bitwright.api.texts import SEED
from bitwright.cli import options, render
from bitwright.cli.comparing import print_comparison
from bitwright.cli.progress import progress
from bitwright.cli.verdicts import EXIT_CODES
from bitwright.core.device_request import CPU

EPILOG = """\b
Examples:
  bitwright compare q4 q6 w8 --reference ./Llama-3.2-1B --text notes.txt --out comparison
  bitwright compare q4.gguf q5.gguf --reference demo --windows 64 --json
Exit codes: 0 one of them passes, 1 none can, 4 none does yet (give more windows)."""


def run(
    artifacts: Annotated[
        list[Path],
        typer.Argument(metavar="ARTIFACT...", help="Two or more GGUF files or artifact folders.", show_default=False),
    ],
    reference: options.Reference,
    text: options.Text = None,
    windows: options.Windows = WINDOWS,
    length: options.Length = LENGTH,
    seed: options.JudgingSeed = SEED,
    use_case: options.UseCase = "chat",
    profile: options.Profile = None,
    reference_cache: options.ReferenceCache = None,
    device: options.Device = CPU,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Also write comparison.json, comparison.html, each validation here."),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Judge several artifacts of one model on the same windows: which is closest to the original, which cannot be told
    apart, which to take.
    """
    record = api.compare(
        artifacts,
        reference,
        texts=text or (),
        windows=windows,
        length=length,
        seed=seed,
        use_case=use_case,
        profile=profile,
        reference_cache=reference_cache,
        device=device,
        out=out,
        progress=progress(quiet),
    )
    render.print_json(record) if json else print_comparison(record)
    verdicts = {entry.verdict for entry in record.entries}
    best = next(verdict for verdict in ("PASS", "INCONCLUSIVE", "FAIL") if verdict in verdicts)
    raise typer.Exit(EXIT_CODES[best])


run.__name__ = "compare"
