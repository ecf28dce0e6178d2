"""`bitwright ship`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import typer

from bitwright import api
from bitwright.api.budget import before_sharing
from bitwright.api.decision import CONTEXT, explain
from bitwright.api.devices import check_device
from bitwright.api.making import calibration_plan
from bitwright.api.preflight import is_made, preflight
from bitwright.api.proof import LENGTH, WINDOWS
from bitwright.api.service import why_not_served
from bitwright.api.shipment import EvaluationText, check_judging
from bitwright.api.texts import SEED
from bitwright.cli import options, render
from bitwright.cli.announce import announce
from bitwright.cli.given import given_plan
from bitwright.cli.parsing import group_size_of, overrides_of, target_bytes
from bitwright.cli.progress import progress
from bitwright.cli.serve import serve_until_signal
from bitwright.cli.verdicts import EXIT_CODES
from bitwright.cli.wished import path_of, wish_in
from bitwright.core.device_request import CPU
from bitwright.core.plan import ArtifactFormat, Plan
from bitwright.core.protocols import Progress
from bitwright.core.records import ShipRecord

EPILOG = """\b
Examples:
  bitwright ship demo --out build/demo
  bitwright ship ./Llama-3.2-1B --out out --use-case code --text code.txt --no-serve
  bitwright ship ./Llama-3.2-1B --out out --type Q5_K_M --effort best --once --json
  bitwright ship ./Llama-3.2-1B --out out --type FP8_DYNAMIC --dry-run
  bitwright ship demo --out build/demo --ask-engine
  bitwright ship ./Llama-3.2-1B --out out --concurrency 4 --user-speed 10 --aim cost
DIR holds plan.json, the artifact, quant.json, validation.json, speed.json and report.html.
Interrupted? The same command goes on where it stopped.
Exit codes: 0 PASS, 1 FAIL (nothing is served), 4 INCONCLUSIVE."""


def run(
    command: typer.Context,
    model: options.Model,
    out: options.Out,
    target: options.Target = "auto", use_case: options.UseCase = "chat",
    text: options.Text = None,
    windows: options.Windows = WINDOWS, window_length: options.WindowLength = LENGTH,
    ask_engine: options.AskEngine = False,
    format: options.Format = None, type: options.Type = None,
    keep: options.Keep = None,
    target_size: options.TargetSize = None, target_bpw: options.TargetBpw = None,
    lora: options.Lora = None,
    method: options.Method = None, effort: options.Effort = "balanced",
    act_order: options.ActOrder = "static", kv_cache: options.KvCache = None,
    observer: options.Observer = None, percentile: options.Percentile = None,
    bits: options.Bits = None, group_size: options.GroupSize = "128", asymmetric: options.Asymmetric = False,
    vision: options.Vision = None, projector: options.Projector = None,
    context: options.Context = CONTEXT,
    workload: options.Workload = None, concurrency: options.Concurrency = None, arrivals: options.Arrivals = None,
    prompt_tokens: options.PromptTokens = None, output_tokens: options.OutputTokens = None,
    shared_prefix: options.SharedPrefix = None, served_cache: options.ServedCache = None,
    ttft: options.Ttft = None, user_speed: options.UserSpeed = None, throughput: options.Throughput = None,
    floor: options.Floor = None, aim: options.Aim = None, engine: options.Engine = None, price: options.Price = None,
    wish: options.WishFile = None,
    imatrix: options.Imatrix = None, calibration: options.Calibration = None,
    samples: options.Samples = 64, length: options.Length = 512,
    seed: options.Seed = 0, force: options.Force = False,
    device: options.Device = CPU,
    plan: options.PlanFile = None,
    serve: options.Serve = True, once: options.Once = False,
    host: options.Host = "127.0.0.1", port: options.Port = 8080,
    api_key: options.ApiKey = None,
    keep_float: options.KeepFloat = False,
    dry_run: options.DryRun = False,
    json: options.Json = False, quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """From a checkpoint to a served model: plan, quantize, validate, measure, report, serve."""
    bars = progress(quiet)
    check_device(device)
    judged = EvaluationText(
        files=tuple(text or ()), windows=windows, length=window_length, seed=seed + SEED, ask_engine=ask_engine
    )
    made = given_plan(plan, command) if plan is not None else _planned(command, bars)
    check_judging(made.calibration, judged)
    size = target_bytes(target_size, target_bpw, made.model.parameters) if target_size or target_bpw else None
    foreseen = made if size is None else before_sharing(made, out, size)
    found, silent = preflight(foreseen, out, text=judged, device=device), quiet or is_made(out)
    if announce(found, dry_run=dry_run, json=json, quiet=silent, told=explain(foreseen)):
        return
    made = made if size is None else api.share_out(made, out, size, model=model, lora=lora, progress=bars)
    record = api.ship(
        model, out, plan=made, lora=lora, text=judged, once=once, keep_float=keep_float, device=device, progress=bars
    )
    render.print_json(record) if json else render.print_ship(record)
    sys.stdout.flush()
    _advise(record)
    if serve and not once and record.verdict != "FAIL" and _can_serve(record, made.format):
        serve_until_signal(Path(record.out), host=host, port=port, api_key=api_key, quiet=quiet)
    raise typer.Exit(EXIT_CODES[record.verdict])


run.__name__ = "ship"


def _planned(command: typer.Context, bars: Progress) -> Plan:
    """What the flags ask for, of artifact, load and limits."""
    said = command.params
    whole, overrides = overrides_of(said["type"], said["keep"])
    text = said["calibration"] or (), said["samples"], said["length"], said["seed"]
    return api.plan(
        said["model"], target=said["target"], use_case=said["use_case"], format=said["format"], type=whole,
        overrides=overrides, lora=path_of(said["lora"]), method=said["method"], effort=said["effort"],
        act_order=said["act_order"], kv_cache=said["kv_cache"], observer=said["observer"],
        percentile=said["percentile"], bits=said["bits"], group_size=group_size_of(said["group_size"]),
        symmetric=not said["asymmetric"], vision=said["vision"], projector=said["projector"], few_bits=said["force"],
        saturate=said["force"], calibration=calibration_plan(*text, imatrix=path_of(said["imatrix"])),
        context=said["context"], wish=wish_in(command), progress=bars,
    )  # fmt: skip


def _can_serve(record: ShipRecord, format: ArtifactFormat) -> bool:
    """Whether an engine is here; what is proven stays proven where none is."""
    missing = why_not_served(format)
    if missing is not None:
        print(f"not served: {missing}", file=sys.stderr)
        print(f"hint: where it is, {record.launch} serves it", file=sys.stderr)
    return missing is None


def _advise(record: ShipRecord) -> None:
    """What to do after FAIL; nothing is said otherwise."""
    if record.verdict != "FAIL":
        return
    print("the artifact loses more than the use case allows, so it is not served", file=sys.stderr)
    if record.try_next is not None:
        print(f"hint: try --type {shlex.quote(record.try_next)} with another --out", file=sys.stderr)
