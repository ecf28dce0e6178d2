"""`bitwright plan`."""

from __future__ import annotations

import typer

from bitwright import api
from bitwright.api.decision import CONTEXT, explain, write_plan_page
from bitwright.cli import options, render
from bitwright.cli.parsing import group_size_of, overrides_of
from bitwright.cli.progress import progress
from bitwright.cli.wished import wish_in
from bitwright.core.documents import write_document

EPILOG = """\b
Examples:
  bitwright plan demo
  bitwright plan llama-3.1-70b --target h100-sxm:2
  bitwright plan ./Llama-3.1-8B --target rtx4090 --use-case code --explain
  bitwright plan llama-3.1-70b --target h100-sxm:4 --concurrency 64 --user-speed 25 --aim cost
  bitwright plan ./Llama-3.1-8B --format compressed-tensors --bits 4 --group-size 128 --out plan.json
  bitwright plan llama-3.1-8b --target rtx4090 --html plan.html"""


def run(
    command: typer.Context,
    model: options.Model,
    target: options.Target = "auto", use_case: options.UseCase = "chat",
    format: options.Format = None, type: options.Type = None, keep: options.Keep = None,
    lora: options.Lora = None,
    method: options.Method = None, effort: options.Effort = "balanced", act_order: options.ActOrder = "static",
    kv_cache: options.KvCache = None, observer: options.Observer = None, percentile: options.Percentile = None,
    bits: options.Bits = None, group_size: options.GroupSize = "128", asymmetric: options.Asymmetric = False,
    vision: options.Vision = None,
    projector: options.Projector = None,
    force: options.Force = False,
    context: options.Context = CONTEXT,
    workload: options.Workload = None, concurrency: options.Concurrency = None, arrivals: options.Arrivals = None,
    prompt_tokens: options.PromptTokens = None, output_tokens: options.OutputTokens = None,
    shared_prefix: options.SharedPrefix = None, served_cache: options.ServedCache = None,
    ttft: options.Ttft = None, user_speed: options.UserSpeed = None, throughput: options.Throughput = None,
    floor: options.Floor = None, aim: options.Aim = None, engine: options.Engine = None, price: options.Price = None,
    wish: options.WishFile = None,
    out: options.OutFile = None, html: options.HtmlFile = None,
    json: options.Json = False,
    explain_choices: options.Explain = False,
    quiet: options.Quiet = False,
) -> None:  # fmt: skip
    """Decide what becomes of a model on a device, and say why. Reads headers only."""
    whole, overrides = overrides_of(type, keep)
    made = api.plan(
        model,
        target=target,
        use_case=use_case,
        format=format,
        type=whole,
        lora=lora,
        method=method,
        effort=effort,
        act_order=act_order,
        kv_cache=kv_cache,
        observer=observer,
        percentile=percentile,
        bits=bits,
        group_size=group_size_of(group_size),
        symmetric=not asymmetric,
        vision=vision,
        projector=projector,
        few_bits=force,
        context=context,
        overrides=overrides,
        wish=wish_in(command),
        progress=progress(quiet),
    )
    if out is not None:
        write_document(made, out)
    if html is not None:
        write_plan_page(made, html)
    if json:
        render.print_json(made)
    else:
        render.print_plan(explain(made), reasons=explain_choices)


run.__name__ = "plan"
