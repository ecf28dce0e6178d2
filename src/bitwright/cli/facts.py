"""`bitwright facts`."""

from __future__ import annotations

from typing import Annotated

import typer

from bitwright import api
from bitwright.cli import options, render

EPILOG = """\b
Examples:
  bitwright facts hardware
  bitwright facts hardware h100-sxm --json
  bitwright facts models qwen3
  bitwright facts engines vllm"""


def run(
    topic: Annotated[
        str,
        typer.Argument(metavar="TOPIC", help="hardware, engines, models, methods or workloads.", show_default=False),
    ],
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One row, or all whose names begin so.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """Print what plans are made from: devices, engines, models, methods, loads, with units, sources and dates."""
    found = api.facts(topic, name)
    if json:
        render.print_json(found)
        return
    from bitwright.cli.fact_tables import fact_tables

    for table in fact_tables(found):
        render.print_facts(table)


run.__name__ = "facts"
