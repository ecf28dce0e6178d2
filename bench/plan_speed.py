"""Speeds that `plan` predicts beside those of llama.cpp: is the error small, do the intervals hold, is the order right?

The machine is measured as `bitwright calibrate` does, on random models. Then each GGUF type of a model, made by nearest
codes (its weights do not matter, its types do), is run at a context, all types in turn; and so on, calibrated anew for
each model and context, because the machine that was measured is a fifth faster or slower some minutes later. How far
off the first calibration is by the end is told apart. Nothing of a calibration has seen these models, these contexts,
or the types that are not among its own: every case is held out, and those of a type that was not calibrated are marked.

Accepted when, over all cases, the median of |predicted / measured - 1| is at most 15 %, and the stated intervals (80 %)
hold at least 80 %; and when, without calibration, the regime is right in every case and so is the order of every two
types whose measured speeds differ by more than --apart. A step counts as memory bound where a decoded token takes
at least 1.25 times what a token of a prompt takes. Exit code 1 when a condition fails.

--clock processor counts processor seconds of the engine instead of seconds, on one thread: on a shared machine those
hold still. Predictions are then for one core.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from bitwright import api
from bitwright.api.machine import measure_cpu
from bitwright.core.devices import DeviceFacts
from bitwright.core.intervals import Interval
from bitwright.core.machine import MachineCalibration
from bitwright.core.plan import CalibrationPlan, Plan
from bitwright.core.provenance import provenance
from bitwright.core.records import SpeedPoint, SpeedRecord
from bitwright.core.schemes import GgmlScheme
from bitwright.core.target import QualityFloor, Target, Workload
from bitwright.engines.chat import connect, request_json
from bitwright.engines.llamacpp import LlamaCppServer
from bitwright.engines.speed import CONTEXT_MARGIN, measure, random_prompt
from bitwright.facts.engine_kernels import find_kernel
from bitwright.facts.hardware import find_device
from bitwright.pipeline.run import quantize
from bitwright.planner.deployment import Deployment
from bitwright.planner.engine_names import LLAMA_CPP
from bitwright.planner.speed import speed

TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "IQ4_XS")
CONTEXTS = (512, 4096)
DECODED = 64
FREE = 1.25
FLOOR = QualityFloor(use_case="chat", perplexity_delta=0.3, kl_mean=0.1)
Measure = Callable[..., SpeedRecord]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One type of one model at one context."""

    model: str
    type: str
    context: int
    calibrated_type: bool
    first: tuple[Interval, Interval]  # prompt and decoding as the first calibration has them
    prompt: tuple[float, Interval, Interval]  # tokens per second: measured, calibrated, from tables alone
    decode: tuple[float, Interval, Interval]
    regimes: tuple[str, str]  # of decoding: measured, from tables alone


def make(model: Path, type: str, out: Path) -> Plan:
    """The GGUF file of a type, unless it is there."""
    spec = CalibrationPlan(source=()) if type != "F16" else None
    plan = api.plan(model, target="cpu", format="gguf", type=type, method="rtn", calibration=spec, few_bits=True)
    if not (out / "quant.json").exists():
        quantize(plan, model, out)
    return plan


def on_processor_time(
    paths: Sequence[tuple[str, Path]], *, prompt_tokens: int, decode_tokens: int, repeats: int, **_: Any
) -> SpeedRecord:
    """What `measure` does, by processor seconds of one thread: a prompt, then the same prompt from the cache."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name, _ in paths}
    with contextlib.ExitStack() as stack:
        engines = [_engine(stack, path, prompt_tokens + decode_tokens) for _, path in paths]
        for turn in range(repeats + 1):
            for (name, _path), (client, pid, vocabulary) in zip(paths, engines, strict=True):
                prompt = random_prompt(turn, prompt_tokens, vocabulary)
                prompted = _seconds(client, pid, prompt, 1)
                decoded = _seconds(client, pid, prompt, decode_tokens)
                if turn:
                    found[name].append((prompt_tokens / prompted, decode_tokens / decoded))
    points = tuple(
        SpeedPoint(
            name=name, bytes=path.stat().st_size, prompt_tokens_s=max(rate for rate, _ in found[name]),
            decode_tokens_s=max(rate for _, rate in found[name]), prompt_tokens=prompt_tokens,
            decode_tokens=decode_tokens, repeats=repeats,
        )
        for name, path in paths
    )  # fmt: skip
    return SpeedRecord(engine="llama.cpp, processor seconds", threads=1, points=points, provenance=provenance())


def _engine(stack: contextlib.ExitStack, path: Path, tokens: int) -> tuple[httpx.Client, int, int]:
    """A server, the process that computes, and how many tokens its model knows."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    server = stack.enter_context(LlamaCppServer(path, port=0, context=tokens + CONTEXT_MARGIN, threads=1, parallel=1))
    born = [child.pid for child in psutil.Process().children(recursive=True) if child.pid not in before]
    client = connect(server.url, timeout=1200.0)
    answer = request_json(client, "GET", "/v1/models")
    return client, max(born, key=lambda pid: _processor_ns(pid)), int(answer["data"][0]["meta"]["n_vocab"])


def _seconds(client: httpx.Client, pid: int, prompt: list[int], tokens: int) -> float:
    body = {"prompt": prompt, "n_predict": tokens, "cache_prompt": True, "ignore_eos": True, "temperature": 0}
    started = _processor_ns(pid)
    request_json(client, "POST", "/completion", body)
    return (_processor_ns(pid) - started) / 1e9


def _processor_ns(pid: int) -> int:
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            total += int((task / "schedstat").read_text().split()[0])
    return total


def deployment(plan: Plan, device: DeviceFacts, context: int) -> Deployment:
    """One request that fills the context."""
    workload = Workload(load="edge", prompt_tokens=context - DECODED, output_tokens=DECODED, concurrency=1)
    return Deployment(
        facts=plan.model, type=plan.type, format="gguf", tensors=plan.tensors, engine=LLAMA_CPP,
        kernel=find_kernel(LLAMA_CPP, "gguf", GgmlScheme(type="Q8_0"), None),
        target=Target(device=device, workload=workload, floor=FLOOR, context=context),
    )  # fmt: skip


def run_cases(
    model: Path,
    device: DeviceFacts,
    calibrations: list[MachineCalibration],
    take: Measure,
    arguments: argparse.Namespace,
) -> list[Case]:
    """All types of a model at all contexts. Calibrations are added to those that there are."""
    plans = {type: make(model, type, arguments.work / f"{model.name}-{type}") for type in arguments.types}
    files = [(type, next((arguments.work / f"{model.name}-{type}").glob("*.gguf"))) for type in arguments.types]
    cases = []
    for context in arguments.contexts:
        calibration = measure_cpu(device, quick=arguments.quick, take=take)
        calibrations.append(calibration)
        known = {cost.type for cost in calibration.types}
        record = take(
            files, prompt_tokens=context - DECODED, decode_tokens=DECODED, repeats=arguments.repeats, pick=max
        )
        for point in record.points:
            wish = deployment(plans[point.name], device, context)
            after, before, first = speed(wish, calibration), speed(wish), speed(wish, calibrations[0])
            assert after is not None, wish.type
            assert before is not None, wish.type
            assert first is not None, wish.type
            stored = {entry.scheme.type for entry in wish.tensors if isinstance(entry.scheme, GgmlScheme)} - {"F32"}
            ratio = point.prompt_tokens_s / point.decode_tokens_s
            cases.append(
                Case(
                    model=model.name,
                    type=point.name,
                    context=context,
                    calibrated_type=stored <= known,
                    first=(first.ttft_seconds.under(point.prompt_tokens), first.user_tokens_per_second),
                    prompt=(
                        point.prompt_tokens_s,
                        after.ttft_seconds.under(point.prompt_tokens),
                        before.ttft_seconds.under(point.prompt_tokens),
                    ),
                    decode=(point.decode_tokens_s, after.user_tokens_per_second, before.user_tokens_per_second),
                    regimes=("memory" if ratio >= FREE else "compute", before.decode),
                )
            )
            print(told(cases[-1]), file=sys.stderr, flush=True)
    return cases


def told(case: Case) -> str:
    """A line for people."""
    parts = [f"{case.model:5} {case.type:7} {case.context:5}"]
    for name, (measured, after, before) in (("prompt", case.prompt), ("decode", case.decode)):
        held = after.low <= measured <= after.high
        parts.append(
            f"{name} {measured:8.1f}, predicted {after.expected:8.1f} ({after.expected / measured - 1:+.0%}"
            f"{'' if held else ', outside'}), by table {before.expected:8.1f}"
        )
    return "; ".join(parts)


def out_of_order(cases: Sequence[Case], apart: float) -> list[str]:
    """Pairs of types whose measured speeds differ by more than `apart` and whose predicted ones are the other way."""
    wrong = []
    for _, group in itertools.groupby(cases, key=lambda case: (case.model, case.context)):
        for one, other in itertools.combinations(group, 2):
            for what in ("prompt", "decode"):
                (first, _, guess), (second, _, other_guess) = getattr(one, what), getattr(other, what)
                differ = max(first, second) / min(first, second) > 1 + apart
                if differ and (first > second) != (guess.expected > other_guess.expected):
                    wrong.append(f"{one.model} {one.context} {what}: {one.type} and {other.type}")
    return wrong


def summary(cases: Sequence[Case], apart: float) -> dict[str, Any]:
    """What is held against the conditions."""
    figures = [figure for case in cases for figure in (case.prompt, case.decode)]
    errors = [abs(after.expected / measured - 1) for measured, after, _ in figures]
    held = [after.low <= measured <= after.high for measured, after, _ in figures]
    drifted = [
        (measured, found)
        for case in cases
        for (measured, _, _), found in zip((case.prompt, case.decode), case.first, strict=True)
    ]
    new = [figure for case in cases if not case.calibrated_type for figure in (case.prompt, case.decode)]
    return {
        "figures": len(figures),
        "median_error": statistics.median(errors),
        "largest_error": max(errors),
        "median_error_prompt": statistics.median(abs(c.prompt[1].expected / c.prompt[0] - 1) for c in cases),
        "median_error_decode": statistics.median(abs(c.decode[1].expected / c.decode[0] - 1) for c in cases),
        "median_error_types_not_calibrated": statistics.median(abs(a.expected / m - 1) for m, a, _ in new)
        if new
        else 0,
        "median_error_of_first_calibration": statistics.median(abs(f.expected / m - 1) for m, f in drifted),
        "held_by_first_calibration": sum(f.low <= m <= f.high for m, f in drifted) / len(drifted),
        "held": sum(held) / len(held),
        "held_by_tables": sum(before.low <= measured <= before.high for measured, _, before in figures) / len(figures),
        "regimes_right": all(case.regimes[0] == case.regimes[1] for case in cases),
        "out_of_order": out_of_order(cases, apart),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--types", nargs="+", default=TYPES)
    parser.add_argument("--contexts", nargs="+", type=int, default=CONTEXTS)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--apart", type=float, default=0.15)
    parser.add_argument("--quick", action="store_true", help="calibrate as `calibrate --quick` does")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall")
    arguments = parser.parse_args()
    device, take = find_device("cpu"), measure if arguments.clock == "wall" else on_processor_time
    if arguments.clock == "processor":
        device = msgspec.structs.replace(device, cores=1)
    calibrations: list[MachineCalibration] = []
    cases = [case for model in arguments.models for case in run_cases(model, device, calibrations, take, arguments)]
    found = summary(cases, arguments.apart)
    document = {
        "conditions": vars(arguments), "device": device, "calibrations": calibrations, "cases": cases, "summary": found,
        "provenance": provenance(),
    }  # fmt: skip
    arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2) + b"\n")
    print(json.dumps(found, indent=2))
    right = found["median_error"] <= 0.15 and found["held"] >= 0.8 and found["regimes_right"]
    return 0 if right and not found["out_of_order"] else 1


if __name__ == "__main__":
    sys.exit(main())
