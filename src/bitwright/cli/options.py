"""Every flag, once. Commands import their flags from here, so that one flag means one thing everywhere.

Values that come from a list (use case, format, type, …) are plain strings here: the rooms below check them and answer
an unknown one with the nearest known name. Numbers are bounded here, because the parser can say it best.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A Hugging Face folder, a float GGUF file, a hub id, `demo`, or `demo:wide`; for a plan also a name that "
        "`bitwright facts models` lists.",
        show_default=False,
    ),
]
Artifact = Annotated[
    Path, typer.Argument(metavar="ARTIFACT", help="A GGUF file or an artifact folder.", show_default=False)
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", help="Folder for everything that is made.", show_default=False)
]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Also write the document here.")]
ReportFile = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write the verdict and its figures as a page.")
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write the plan as a page, with ways as a chart.")
]

Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="TARGET",
        help="`auto` (this machine), `cpu`, or a device that `bitwright facts hardware` lists: h100-sxm, or h100-sxm:2 "
        "for two.",
    ),
]
HereTarget = Annotated[
    str, typer.Option("--target", metavar="TARGET", help="`auto`: this machine's GPU if it has one; `cpu`.")
]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer types and turns: 20 seconds, wider of the mark.")]
UseCase = Annotated[
    str,
    typer.Option(
        "--use-case", metavar="USE", help="chat, code, medical-legal, summarization or vlm; sets types and thresholds."
    ),
]
FORMATS = "gguf, compressed-tensors, gptq, gptq_v2, awq, bitsandbytes, fp8, modelopt or safetensors (floats)."
Format = Annotated[
    str | None,
    typer.Option("--format", metavar="FORMAT", help=FORMATS),
]
Type = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="[PATTERN=]TYPE",
        help="Q4_K_M, … (GGUF); FP8_DYNAMIC, … (vLLM); NF4, … (bitsandbytes); F32, F16, BF16. With a pattern only for "
        "tensors whose names match, as '*.v_proj=Q8_0'; `re:` begins a regular expression. Repeatable.",
    ),
]
Keep = Annotated[
    list[str] | None,
    typer.Option(
        "--keep",
        metavar="PATTERN",
        help="Leave tensors whose names match in floating point: '*.down_proj'. Repeatable.",
    ),
]
Method = Annotated[
    str | None, typer.Option("--method", metavar="METHOD", help="gptq, awq, smoothquant, zeroquant or rtn.")
]
ActOrder = Annotated[
    str,
    typer.Option(
        "--act-order", metavar="ORDER", help="static, group (stored in GPTQ files as g_idx) or none: columns of GPTQ."
    ),
]
KvCache = Annotated[
    str | None,
    typer.Option("--kv-cache", metavar="TYPE", help="fp8: store scales of keys and values, observed on the text."),
]
Observer = Annotated[
    str | None,
    typer.Option(
        "--observer",
        metavar="RULE",
        help="minmax (default), percentile, mse or entropy: what chooses stored scales of inputs, keys and values.",
    ),
]
Percentile = Annotated[
    float | None,
    typer.Option("--percentile", metavar="SHARE", help="Share of values that --observer percentile keeps [99.99]."),
]
Effort = Annotated[
    str, typer.Option("--effort", metavar="EFFORT", help="fast, balanced or best: time spent on quality.")
]
Bits = Annotated[
    int | None, typer.Option("--bits", metavar="N", help="Bits of integer weights, 2 to 8; not of GGUF types.")
]
TargetSize = Annotated[
    str | None,
    typer.Option("--target-size", metavar="SIZE", help="Choose each tensor's type so that the file is this large."),
]
TargetBpw = Annotated[
    float | None,
    typer.Option("--target-bpw", metavar="BITS", min=0, help="The same, as bits per parameter of the whole file."),
]
GroupSize = Annotated[
    str, typer.Option("--group-size", metavar="N|channel", help="Inputs per scale: 32, 64, 128 or `channel`.")
]
Asymmetric = Annotated[bool, typer.Option("--asymmetric", help="Store a zero point beside each scale.")]
Vision = Annotated[
    str | None,
    typer.Option(
        "--vision", metavar="TYPE", help="Vision tower of a vision-language model: float (default), int8, or int4."
    ),
]
Projector = Annotated[
    str | None,
    typer.Option("--projector", metavar="TYPE", help="What joins tower and decoder: float (default), int8, or int4."),
]
Context = Annotated[int, typer.Option("--context", metavar="N", min=1, help="Tokens of context to make room for.")]

Workload = Annotated[
    str | None,
    typer.Option("--workload", metavar="LOAD", help="chat, code, rag, batch, agent, vlm or edge: lengths, requests."),
]
PromptTokens = Annotated[int | None, typer.Option("--prompt-tokens", metavar="N", min=1, help="Of a usual request.")]
OutputTokens = Annotated[int | None, typer.Option("--output-tokens", metavar="N", min=1, help="Of a usual answer.")]
SharedPrefix = Annotated[
    int | None,
    typer.Option("--shared-prefix", metavar="N", min=0, help="Tokens that prompts begin with, all the same."),
]
Concurrency = Annotated[
    int | None, typer.Option("--concurrency", metavar="N", min=1, help="Requests in progress at once.")
]
Arrivals = Annotated[
    float | None, typer.Option("--arrivals", metavar="RATE", help="Requests per second, where that is less.")
]
Ttft = Annotated[float | None, typer.Option("--ttft", metavar="SECONDS", help="Longest that the first token may take.")]
UserSpeed = Annotated[
    float | None, typer.Option("--user-speed", metavar="RATE", help="Tokens per second of each request, at least.")
]
Throughput = Annotated[
    float | None, typer.Option("--throughput", metavar="RATE", help="Tokens per second of all requests, at least.")
]
Floor = Annotated[
    float | None,
    typer.Option("--floor", metavar="POINTS", help="Most that perplexity may rise; without it by use case."),
]
Aim = Annotated[
    str | None, typer.Option("--aim", metavar="AIM", help="balanced (the handbook's order), cost or latency.")
]
Engine = Annotated[
    list[str] | None, typer.Option("--engine", metavar="ENGINE", help="llama.cpp, vllm or sglang alone. Repeatable.")
]
ServedCache = Annotated[
    str | None, typer.Option("--served-cache", metavar="TYPE", help="Keys and values when served: fp8 or q8_0.")
]
Price = Annotated[
    float | None, typer.Option("--price", metavar="DOLLARS", help="Of one device for an hour, instead of the table's.")
]
WishFile = Annotated[
    Path | None,
    typer.Option("--wish", metavar="FILE", help="YAML with these keys (workload, ttft, …); flags go before it."),
]

Lora = Annotated[
    Path | None,
    typer.Option("--lora", metavar="DIR", help="A PEFT LoRA adapter to merge into MODEL, in memory, as it is read."),
]
Imatrix = Annotated[
    Path | None,
    typer.Option(
        "--imatrix", metavar="FILE", help="An importance matrix of llama.cpp instead of calibration text; method rtn."
    ),
]
ImatrixFile = Annotated[
    Path, typer.Option("--out", metavar="FILE", help="The importance matrix, as GGUF.", show_default=False)
]
Calibration = Annotated[
    list[str] | None,
    typer.Option(
        "--calibration",
        metavar="FILE|self|none",
        help="Calibration text; `self`: written by the model, whole in memory; `none`: method rtn. Repeatable.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device", metavar="DEVICE", help="cpu, cuda, cuda:1, cuda:0,1 (share the batches), mps, or auto: runs blocks."
    ),
]
Samples = Annotated[int, typer.Option("--samples", metavar="N", min=1, help="Calibration windows.")]
Length = Annotated[int, typer.Option("--length", metavar="N", min=8, help="Tokens in a window.")]
Seed = Annotated[int, typer.Option("--seed", metavar="N", min=0, help="Seed of sampled text and chosen windows.")]
JudgingSeed = Annotated[
    int,
    typer.Option(
        "--seed", metavar="N", min=0, help="Seed of sampled text and of windows; 0 takes them in order from the start."
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Store 65504 for values that F16 cannot hold; allow fewer than 8 bits in a vision tower."
    ),
]
PlanFile = Annotated[
    Path | None, typer.Option("--plan", metavar="FILE", help="Follow this plan.json instead of making a plan.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show time, memory, disk and engines to expect; write nothing.")
]

Reference = Annotated[
    str,
    typer.Option(
        "--reference", metavar="MODEL", help="The original that the artifact is held against.", show_default=False
    ),
]
Text = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="[NAME=]FILE|self",
        help="Text to judge on, called NAME in tables: de=notizen.txt. Default: `self`, which the original writes, "
        "whole in memory. Repeatable.",
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FILE", help="YAML with limits of your own over those of the use case."),
]
UntilDecided = Annotated[
    bool, typer.Option("--until-decided", help="Add windows until every gate passes or fails, or the text ends.")
]
MaxWindows = Annotated[
    int | None,
    typer.Option("--max-windows", metavar="N", min=2, help="Most windows per text, then [16 times --windows]."),
]
Budget = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Most time for adding windows: 90s, 10m, 2h.")
]
ReferenceCache = Annotated[
    str | None,
    typer.Option(
        "--reference-cache",
        metavar="DIR|auto",
        help="Keep the original's predictions there, so that the next artifact needs half the time.",
    ),
]
WindowLength = Annotated[
    int, typer.Option("--window-length", metavar="N", min=8, help="Tokens in an evaluation window.")
]
Windows = Annotated[int, typer.Option("--windows", metavar="N", min=2, help="Evaluation windows per text.")]
Task = Annotated[
    list[str] | None,
    typer.Option(
        "--task", metavar="NAME|FILE", help="Task of lm-evaluation-harness, or a YAML file in its form. Repeatable."
    ),
]
TaskLimit = Annotated[
    int | None,
    typer.Option("--task-limit", metavar="N", min=2, help="Items of each task, from its start. Default: all."),
]
Long = Annotated[
    int | None,
    typer.Option("--long", metavar="N", min=2, help="Let both continue N prompts at length, greedily and sampled."),
]
LongTokens = Annotated[
    int, typer.Option("--long-tokens", metavar="N", min=32, help="Most tokens of a long text, then.")
]
Through = Annotated[
    str | None,
    typer.Option(
        "--through",
        metavar="URL|auto",
        help="Ask the running engine too, or one that is started for this; with its flags.",
    ),
]
AskEngine = Annotated[
    bool,
    typer.Option(
        "--ask-engine",
        help="Start the engine for a moment and hold its predictions, tokens and chats against the file.",
    ),
]
ServersKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", metavar="KEY", envvar="BITWRIGHT_API_KEY", show_envvar=True, help="Of the server at --through."
    ),
]

Host = Annotated[str, typer.Option("--host", metavar="HOST", help="Address to listen on.")]
Port = Annotated[
    int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
]
ApiKey = Annotated[
    str | None,
    typer.Option(
        "--api-key", metavar="KEY", envvar="BITWRIGHT_API_KEY", show_envvar=True, help="Clients must send this key."
    ),
]
Serve = Annotated[bool, typer.Option("--serve/--no-serve", help="Serve the artifact at the end, until Ctrl-C.")]
Once = Annotated[bool, typer.Option("--once", help="Serve, answer one chat message, stop.")]
KeepFloat = Annotated[bool, typer.Option("--keep-float", help="Keep the F16 file that speed is measured against.")]

Explain = Annotated[bool, typer.Option("--explain", help="Also show why, choice by choice, with sources.")]
Json = Annotated[bool, typer.Option("--json", help="Print the document instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no talk; errors and results only.")]
