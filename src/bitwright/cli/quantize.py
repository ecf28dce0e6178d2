"""`bitwright quantize`."""

from __future__ import annotations

import typer

from bitwright import api
from bitwright.api.budget import before_sharing
from bitwright.api.decision import explain
from bitwright.api.devices import check_device
from bitwright.api.making import calibration_plan
from bitwright.api.preflight import is_made, preflight
from bitwright.cli import options, render
from bitwright.cli.announce import announce
from bitwright.cli.given import given_plan
from bitwright.cli.parsing import group_size_of, overrides_of, target_bytes
from bitwright.cli.progress import progress
from bitwright.core.device_request import CPU
from bitwright.core.errors import UsageError
from bitwright.core.plan import Override

EPILOG = """\b
Examples:
  bitwright quantize demo --out q4 --format gguf --type Q4_K_M
  bitwright quantize ./Llama-3.2-1B --out w4 --format compressed-tensors --method gptq --bits 4 --group-size 128
  bitwright quantize ./Llama-3.2-1B --out q5 --type Q5_K_M --calibration notes.txt --samples 32 --length 512
Interrupted? The same command goes on from the last finished block."""
BASE_TYPE = "Q4_K_M"  # what a byte budget starts from


def run(
    command: typer.Context,
    model: options.Model,
    out: options.Out,
    format: options.Format = None, type: options.Type = None,
    keep: options.Keep = None,
    target_size: options.TargetSize = None, target_bpw: options.TargetBpw = None,
    lora: options.Lora = None,
    method: options.Method = None, effort: options.Effort = "balanced",
    act_order: options.ActOrder = "static", kv_cache: options.KvCache = None,
    observer: options.Observer = None, percentile: options.Percentile = None,
    bits: options.Bits = None,
    group_size: options.GroupSize = "128",
    asymmetric: options.Asymmetric = False,
    vision: options.Vision = None, projector: options.Projector = None,
    imatrix: options.Imatrix = None,
    calibration: options.Calibration = None,
    samples: options.Samples = 64,
    length: options.Length = 512,
    seed: options.Seed = 0,
    force: options.Force = False,
    device: options.Device = CPU,
    plan: options.PlanFile = None,
    dry_run: options.DryRun = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Write a quantized artifact, one decoder block in memory at a time."""
    bars, target = progress(quiet), (target_size, target_bpw)
    check_device(device)
    if plan is not None:
        made = given_plan(plan, command)
    else:
        whole, overrides = _types(type, keep, format, budget=target != (None, None))
        made = api.plan(
            model,
            format=format,
            type=whole,
            overrides=overrides,
            lora=lora,
            method=method,
            effort=effort,
            act_order=act_order, kv_cache=kv_cache,
            observer=observer, percentile=percentile,
            bits=bits, group_size=group_size_of(group_size),
            symmetric=not asymmetric,
            vision=vision, projector=projector, few_bits=force, saturate=force,
            calibration=calibration_plan(calibration or (), samples, length, seed, imatrix=imatrix),
            progress=bars,
        )  # fmt: skip
    size = target_bytes(target_size, target_bpw, made.model.parameters) if target != (None, None) else None
    foreseen = made if size is None else before_sharing(made, out, size)
    found, silent = preflight(foreseen, out, device=device), quiet or is_made(out)
    if announce(found, dry_run=dry_run, json=json, quiet=silent, told=explain(foreseen)):
        return
    if size is not None:
        made = api.share_out(made, out, size, model=model, lora=lora, progress=bars)
    record = api.quantize(made, out, model=model, lora=lora, device=device, progress=bars)
    render.print_json(record) if json else render.print_quant(record, str(out))


run.__name__ = "quantize"


def _types(
    type: list[str] | None, keep: list[str] | None, format: str | None, *, budget: bool
) -> tuple[str | None, tuple[Override, ...]]:
    """The type of the whole file, where the format does not say enough, and types by hand."""
    whole, overrides = overrides_of(type, keep)
    if budget and format in (None, "gguf"):
        whole = whole or BASE_TYPE
    if format is None and whole is None:
        raise UsageError(
            "nothing says what to make", hint="give --format and --type, or --plan; `bitwright ship` decides by itself"
        )
    return whole, overrides
