"""`bitwright inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from bitwright import api
from bitwright.cli import options, render
from bitwright.core.errors import EXIT_GATE_FAILED

EPILOG = """\b
Examples:
  bitwright inspect q4
  bitwright inspect model-Q4_K_M.gguf --json
Exit codes: 0 described, 1 its verdict is of other weights or settings than it holds now."""


def run(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A checkpoint, a GGUF file, or an artifact folder.", show_default=False),
    ],
    headers: Annotated[
        bool, typer.Option("--headers", help="Read headers only: do not hash the weights that a verdict is of.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Say what a file or folder is: architecture, types, sizes, and the verdict that it carries, if it still is that of
    these weights.
    """
    found = api.inspect(path, check=not headers)
    render.print_json(found) if json else render.print_inspection(found)
    if found.carried is not None and found.carried.changed:
        raise typer.Exit(EXIT_GATE_FAILED)


run.__name__ = "inspect"
