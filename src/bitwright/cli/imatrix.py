"""`bitwright imatrix`."""

from __future__ import annotations

from bitwright import api
from bitwright.api.making import calibration_plan
from bitwright.api.preflight import preflight_imatrix, refuse_full_disk
from bitwright.cli import options, render
from bitwright.cli.announce import announce
from bitwright.cli.progress import progress

EPILOG = """\b
Examples:
  bitwright imatrix demo --out demo.imatrix.gguf
  bitwright imatrix ./Llama-3.2-1B --out imatrix.gguf --calibration notes.txt --samples 32 --length 512
  bitwright quantize ./Llama-3.2-1B --out q4 --type Q4_K_M --imatrix imatrix.gguf
The file is that of llama-imatrix, and llama-quantize reads it."""


def run(
    model: options.Model,
    out: options.ImatrixFile,
    lora: options.Lora = None,
    calibration: options.Calibration = None,
    samples: options.Samples = 64,
    length: options.Length = 512,
    seed: options.Seed = 0,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure how much each input of each matrix matters, and write it as an importance matrix of llama.cpp."""
    spec = calibration_plan(calibration or (), samples, length, seed)
    found = preflight_imatrix(model, out, lora=lora, calibration=spec, progress=progress(quiet))
    if announce(found, dry_run=dry_run, json=json, quiet=quiet):
        return
    refuse_full_disk(found)
    record = api.imatrix(model, out, lora=lora, calibration=spec, progress=progress(quiet))
    render.print_json(record) if json else render.print_imatrix(record)


run.__name__ = "imatrix"
