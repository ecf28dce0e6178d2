"""`bitwright ship`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from bitwright import api
from bitwright.api.making import calibration_plan
from bitwright.api.proof import LENGTH, WINDOWS
from bitwright.api.shipment import EvaluationText
from bitwright.cli import options, render
from bitwright.cli.parsing import overrides_of
from bitwright.cli.progress import progress
from bitwright.cli.serve import serve_until_signal
from bitwright.cli.verdicts import EXIT_CODES
from bitwright.core.records import ShipRecord

EPILOG = """\b
Examples:
  bitwright ship demo --out build/demo
  bitwright ship ./Llama-3.2-1B --out out --use-case code --text code.txt --no-serve
  bitwright ship ./Llama-3.2-1B --out out --type Q5_K_M --once --json
DIR holds plan.json, the artifact, quant.json, validation.json, speed.json and report.html.
Interrupted? The same command goes on where it stopped.
Exit codes: 0 PASS, 1 FAIL (nothing is served), 4 INCONCLUSIVE."""


def run(
    model: options.Model,
    out: options.Out,
    target: options.Target = "auto",
    use_case: options.UseCase = "chat",
    text: options.Text = None,
    windows: options.Windows = WINDOWS,
    window_length: options.WindowLength = LENGTH,
    format: options.Format = None,
    type: options.Type = None,
    keep: options.Keep = None,
    lora: options.Lora = None,
    calibration: options.Calibration = None,
    samples: options.Samples = 64,
    length: options.Length = 512,
    seed: options.Seed = 0,
    serve: options.Serve = True,
    once: options.Once = False,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8080,
    api_key: options.ApiKey = None,
    keep_float: options.KeepFloat = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """From a checkpoint to a served model: plan, quantize, validate, measure, report, serve."""
    whole, overrides = overrides_of(type, keep)
    record = api.ship(
        model,
        out,
        target=target,
        use_case=use_case,
        format=format,
        type=whole,
        overrides=overrides,
        lora=lora,
        calibration=calibration_plan(calibration or (), samples, length, seed),
        text=EvaluationText(files=tuple(text or ()), windows=windows, length=window_length, seed=seed),
        once=once,
        keep_float=keep_float,
        progress=progress(quiet),
    )
    render.print_json(record) if json else render.print_ship(record)
    sys.stdout.flush()
    if record.verdict == "FAIL":
        _advise(record)
    elif serve and not once:
        serve_until_signal(Path(record.out), host=host, port=port, api_key=api_key, quiet=quiet)
    raise typer.Exit(EXIT_CODES[record.verdict])


run.__name__ = "ship"


def _advise(record: ShipRecord) -> None:
    """What to do after FAIL."""
    print("the artifact loses more than the use case allows, so it is not served", file=sys.stderr)
    if record.try_next is not None:
        print(f"hint: try --type {shlex.quote(record.try_next)} with another --out", file=sys.stderr)
