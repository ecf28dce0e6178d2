"""`bitwright inspect`."""

from __future__ import annotations

from typing import Annotated

import typer

from bitwright import api
from bitwright.cli import options, render

EPILOG = """\b
Examples:
  bitwright inspect q4
  bitwright inspect model-Q4_K_M.gguf --json"""


def run(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="A checkpoint, a GGUF file, or an artifact folder.", show_default=False),
    ],
    json: options.Json = False,
) -> None:
    """Say what a file or folder is: architecture, types, sizes, and the verdict that it carries. Reads headers only."""
    found = api.inspect(path)
    render.print_json(found) if json else render.print_inspection(found)


run.__name__ = "inspect"
