"""`bitwright validate`."""

from __future__ import annotations

import typer

from bitwright import api
from bitwright.api.proof import LENGTH, WINDOWS
from bitwright.cli import options, render
from bitwright.cli.progress import progress
from bitwright.cli.verdicts import EXIT_CODES
from bitwright.core.device_request import CPU
from bitwright.core.documents import write_document

EPILOG = """\b
Examples:
  bitwright validate q4 --reference demo
  bitwright validate model-Q4_K_M.gguf --reference ./Llama-3.2-1B --text notes.txt --windows 64 --length 512
Exit codes: 0 PASS, 1 FAIL, 4 INCONCLUSIVE (the interval holds the limit: give more windows)."""


def run(
    artifact: options.Artifact,
    reference: options.Reference,
    lora: options.Lora = None,
    text: options.Text = None,
    windows: options.Windows = WINDOWS,
    length: options.Length = LENGTH,
    seed: options.Seed = 0,
    use_case: options.UseCase = "chat",
    device: options.Device = CPU,
    out: options.OutFile = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Hold an artifact against its original: perplexity and KL divergence, judged by the limits of the use case."""
    record = api.validate(
        artifact,
        reference,
        lora=lora,
        texts=text or (),
        windows=windows,
        length=length,
        seed=seed,
        use_case=use_case,
        device=device,
        progress=progress(quiet),
    )
    if out is not None:
        write_document(record, out)
    render.print_json(record) if json else render.print_validation(record)
    raise typer.Exit(EXIT_CODES[record.verdict])


run.__name__ = "validate"
