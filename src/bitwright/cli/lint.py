"""`bitwright lint`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitwright import api
from bitwright.api.linting import read_subject
from bitwright.cli import options, render
from bitwright.core.errors import EXIT_DONE, EXIT_GATE_FAILED, UsageError

EPILOG = """\b
Examples:
  bitwright lint plan.json
  bitwright lint deployment.yaml --json
  bitwright lint --line 'vllm serve Qwen/Qwen3-32B-AWQ --swap-space 4' --target a100-80-sxm
Exit codes: 0 no error found (warnings may be), 1 errors found, 2 nothing to lint."""


def run(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="FILE", show_default=False,
            help="A plan.json, a script or line that starts an engine, a Kubernetes manifest, or - for standard input.",
        ),
    ] = None,
    line: Annotated[
        str | None, typer.Option("--line", metavar="LINE", show_default=False, help="A launch line, instead of a file.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", metavar="DEVICE", show_default=False, help="What it would run on, as in `plan`."),
    ] = None,
    json: options.Json = False,
) -> int:  # fmt: skip
    """Say what is wrong with a plan, a launch line or a Kubernetes manifest, and how it is mended."""
    if (subject is None) == (line is None):
        raise UsageError("give a file, or --line, and not both", hint="bitwright lint --line 'vllm serve …'")
    if line is not None:
        found = api.lint(line, target=target)
    elif subject == "-":
        found = api.lint(sys.stdin.read(), subject="standard input", target=target)
    else:
        found = api.lint(read_subject(Path(str(subject))), subject=str(subject), target=target)
    if json:
        render.print_json(found)
    else:
        for each in found.findings:
            print(f"{each.severity} {each.rule} · {each.where}: {each.says}. Fix: {each.fix}. [{each.source}]")
        if not found.findings:
            noun = "launch" if found.launches == 1 else "launches"
            print(f"nothing found in {found.launches} {noun}", file=sys.stderr)
    return EXIT_GATE_FAILED if found.errors else EXIT_DONE


run.__name__ = "lint"
