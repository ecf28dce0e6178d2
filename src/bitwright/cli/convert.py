"""`bitwright convert`."""

from __future__ import annotations

from typing import Annotated

import typer

from bitwright.api.conversion import plan_conversion
from bitwright.cli import options, render
from bitwright.cli.announce import announce
from bitwright.cli.progress import progress

EPILOG = """\b
Examples:
  bitwright convert w4 --format gptq --out w4-gptq
  bitwright convert ./Llama-3.2-1B-AWQ --format gptq_v2 --out llama-gptq
  bitwright convert w4-g32 --format gguf --out w4-gguf
Nothing is rounded: what a format cannot hold exactly is refused, and the command that quantizes anew is named."""


def run(
    artifact: options.Artifact,
    format: Annotated[
        str,
        typer.Option(
            "--format", metavar="FORMAT", help="gguf, compressed-tensors, gptq, gptq_v2 or awq.", show_default=False
        ),
    ],
    out: options.Out,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write an artifact in another format with the same integers, and prove that both decode alike."""
    conversion = plan_conversion(artifact, format, out, progress=progress(quiet))
    if announce(conversion.preflight(), dry_run=dry_run, json=json, quiet=quiet):
        return
    record = conversion.write(progress(quiet))
    render.print_json(record) if json else render.print_conversion(record, str(out))


run.__name__ = "convert"
