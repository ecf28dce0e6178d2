"""`bitwright calibrate`."""

from __future__ import annotations

from bitwright import api
from bitwright.cli import options, render
from bitwright.cli.progress import progress

EPILOG = """\b
Examples:
  bitwright calibrate
  bitwright calibrate --quick --json
What was measured is kept for each machine, and plans for `auto` and `cpu` go by it. Measure on a machine that is
otherwise idle: what runs beside it counts as its speed."""


def run(
    target: options.HereTarget = "auto",
    quick: options.Quick = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how fast this machine is (a minute), so that plans predict its speed more closely."""
    found, path = api.calibrate(target=target, quick=quick, progress=progress(quiet))
    render.print_json(found) if json else render.print_machine(found, str(path))


run.__name__ = "calibrate"
