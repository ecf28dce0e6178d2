"""`bitwright validate`."""

from __future__ import annotations

import math

import typer

from bitwright import api
from bitwright.api.behaviour import LONG_TOKENS, Behaviour
from bitwright.api.proof import LENGTH, WINDOWS, UntilDecided
from bitwright.api.texts import SEED
from bitwright.cli import options, render
from bitwright.cli.parsing import seconds_of
from bitwright.cli.progress import progress
from bitwright.cli.verdicts import EXIT_CODES
from bitwright.core.device_request import CPU
from bitwright.core.documents import write_document

EPILOG = """\b
Examples:
  bitwright validate q4 --reference demo
  bitwright validate model-Q4_K_M.gguf --reference ./Llama-3.2-1B --text notes.txt --windows 64 --length 512
  bitwright validate q4 --reference demo --text en=notes.txt --text de=notizen.txt --until-decided --budget 10m
  bitwright validate q4 --reference demo --text notes.txt --profile support.yaml --reference-cache auto
  bitwright validate q4 --reference demo --task arc_easy --task-limit 200 --task mine.yaml --long 24
Exit codes: 0 PASS, 1 FAIL, 4 INCONCLUSIVE (the interval holds the limit: give more windows, or --until-decided)."""


def run(
    artifact: options.Artifact,
    reference: options.Reference,
    lora: options.Lora = None,
    text: options.Text = None,
    windows: options.Windows = WINDOWS,
    length: options.Length = LENGTH,
    seed: options.JudgingSeed = SEED,
    use_case: options.UseCase = "chat",
    profile: options.Profile = None,
    until_decided: options.UntilDecided = False,
    max_windows: options.MaxWindows = None,
    budget: options.Budget = None,
    reference_cache: options.ReferenceCache = None,
    task: options.Task = None,
    task_limit: options.TaskLimit = None,
    long: options.Long = None,
    long_tokens: options.LongTokens = LONG_TOKENS,
    through: options.Through = None,
    api_key: options.ServersKey = None,
    device: options.Device = CPU,
    out: options.OutFile = None,
    html: options.ReportFile = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Hold an artifact against its original: perplexity and KL divergence, judged by the limits of the use case."""
    record = api.validate(
        artifact,
        reference,
        lora=lora,
        texts=text or (),
        windows=windows,
        length=length,
        seed=seed,
        use_case=use_case,
        profile=profile,
        until_decided=_until_decided(until_decided, max_windows, budget),
        reference_cache=reference_cache,
        behaviour=Behaviour(
            tasks=tuple(task or ()),
            task_limit=task_limit,
            long_prompts=long,
            long_tokens=long_tokens,
            through=through,
            api_key=api_key,
        ),
        device=device,
        progress=progress(quiet),
    )
    if out is not None:
        write_document(record, out)
    if html is not None:
        api.write_report(record, artifact, html)
    render.print_json(record) if json else render.print_validation(record)
    raise typer.Exit(EXIT_CODES[record.verdict])


def _until_decided(wanted: bool, max_windows: int | None, budget: str | None) -> UntilDecided | None:
    """What bounds the windows that are added; a bound alone asks for them too."""
    if not wanted and max_windows is None and budget is None:
        return None
    seconds = math.inf if budget is None else seconds_of(budget)
    return UntilDecided(max_windows=max_windows, budget_seconds=seconds)


run.__name__ = "validate"
