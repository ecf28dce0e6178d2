"""Checks of options: gone, unknown, of another engine, with values that the parser refuses, said twice."""

from __future__ import annotations

import json
from collections.abc import Iterator

from bitwright.core.errors import did_you_mean
from bitwright.core.findings import Finding
from bitwright.facts.engine_flags import EngineFlag, engine_flags, find_flag, flag_for
from bitwright.facts.engine_options import FILES, GivenOption, engine_options, find_option, problem
from bitwright.facts.lint_rules import finding
from bitwright.planner.lint.launches import Launch

JSON_FLAGS = ("--speculative-config", "-sc", "--compilation-config", "--override-generation-config")
SPECULATION_PARTS = ("--spec-method", "--spec-model", "--spec-tokens")
VLLM_QUANTIZATIONS = {  # methods that are gone or need more, and what to do
    "gptq_marlin_24": "2:4 sparsity was dropped: quantize densely",
    "marlin": "leave it away: Marlin is a kernel, which is chosen by itself",
    "aqlm": "quantize with GPTQ or as compressed-tensors",
    "bitblas": "quantize with GPTQ or as compressed-tensors",
    "hqq": "quantize with GPTQ or as compressed-tensors",
    "squeezellm": "quantize with GPTQ or as compressed-tensors",
    "deepspeedfp": "use fp8_per_channel",
    "tpu_int8": "use int8_per_channel_weight_only",
    "qqq": "use compressed-tensors W4A8",
    "fbgemm_fp8": "use fp8_per_channel, or allow it with --allow-deprecated-quantization",
    "fp_quant": "use nvfp4_per_token, or allow it with --allow-deprecated-quantization",
}
FRACTION_EXAMPLES = {"vllm": "0.92", "sglang": "0.85", "tensorrt-llm": "0.9", "lmdeploy": "0.8", "tgi": "0.95"}


def check_options(launch: Launch) -> Iterator[Finding]:
    """All of the line's options and variables."""
    for given in launch.options:
        yield from _option(launch, given)
    yield from _environment(launch)
    yield from _speculation(launch)
    yield from _quantization(launch)
    yield from _fraction(launch)


def _option(launch: Launch, given: GivenOption) -> Iterator[Finding]:
    engine, where = launch.engine, launch.where
    names = (given.name, given.name.replace("_", "-"))
    row = next((row for name in names if (row := find_flag(engine, name))), None)
    if row is not None and (row.removed or row.deprecated):
        rule = "flag-removed" if row.removed else "flag-deprecated"
        version = row.removed or row.deprecated
        yield finding(rule, where, flag=given.name, engine=engine, version=version, instead=_instead(row))
    elif given.option is None:
        yield _unknown(launch, given)
    elif given.option.choices and (refused := [v for v in given.values if v not in given.option.choices]):
        choices = ", ".join(given.option.choices)
        yield finding("value-invalid", where, flag=given.name, engine=engine, value=refused[0], choices=choices)
    elif said := problem(given):
        yield finding("value-missing", where, problem=said)
    elif given.name in JSON_FLAGS and not _is_object(given.values[0]):
        yield finding("json-invalid", where, flag=given.name)


def _unknown(launch: Launch, given: GivenOption) -> Finding:
    engine, where = launch.engine, launch.where
    for other in FILES:
        option = find_option(other, given.name) if other != engine else None
        if option is None or given.name not in option.names:
            continue
        theirs = next((row for name in option.names if (row := find_flag(other, name)) and not row.removed), None)
        mine = flag_for(engine, theirs.purpose) if theirs is not None else None
        if mine is not None:
            means = f", a share {mine.means}" if mine.purpose == "memory-fraction" else ""
            return finding(
                "flag-of-another-engine",
                where,
                flag=given.name,
                other=other,
                engine=engine,
                mine=mine.name,
                means=means,
            )
    known = [name for option in engine_options(engine).options for name in option.names if name.startswith("--")]
    hint = did_you_mean(given.name, known) if len(known) < 12 or given.name.startswith("--") else "leave it away"
    hint = hint if hint.startswith("did you mean") else "leave it away, or look it up in the engine's --help"
    return finding(
        "flag-unknown", where, engine=engine, version=engine_options(engine).version, flag=given.name, hint=hint
    )


def _environment(launch: Launch) -> Iterator[Finding]:
    rows = [
        row for row in engine_flags() if row.engine == launch.engine and row.kind == "env" and row.name in launch.env
    ]
    for row in rows:
        if row.removed:
            yield finding(
                "env-removed",
                launch.where,
                name=row.name,
                engine=row.engine,
                version=row.removed,
                instead=_instead(row),
            )
        elif row.purpose == "kv-cache" and launch.env[row.name] not in (allowed := row.values.split(", ")):
            value = launch.env[row.name]
            yield finding(
                "value-invalid", launch.where, flag=row.name, engine=row.engine, value=value, choices=", ".join(allowed)
            )


def _instead(row: EngineFlag) -> str:
    """As the beginning of a sentence on what to do."""
    if row.instead.startswith(("--", "the ", "scales")):
        return f"use {row.instead}"
    return row.instead.replace("nothing, ", "leave it away: ") if row.instead != "nothing" else "leave it away"


def _speculation(launch: Launch) -> Iterator[Finding]:
    twice = launch.flag(*SPECULATION_PARTS)
    if launch.engine == "vllm" and twice is not None and launch.flag("--speculative-config", "-sc") is not None:
        yield finding("speculation-twice", launch.where, flag=twice.name)


def _quantization(launch: Launch) -> Iterator[Finding]:
    value = launch.value("quantization")
    if launch.engine == "vllm" and value in VLLM_QUANTIZATIONS:
        yield finding("quantization-gone", launch.where, value=value, engine="vllm", fix=VLLM_QUANTIZATIONS[value])


def _fraction(launch: Launch) -> Iterator[Finding]:
    row, given = flag_for(launch.engine, "memory-fraction"), launch.given("memory-fraction")
    if row is None or given is None or launch.engine not in FRACTION_EXAMPLES or not given.values:
        return
    value = as_fraction(given.values[0])
    if value is None or not 0 < value <= 1:
        yield finding(
            "fraction-range", launch.where, flag=given.name, value=given.values[0],
            example=FRACTION_EXAMPLES[launch.engine],
        )  # fmt: skip
    elif value > 0.95 and launch.engine != "tgi":
        rest = "activations and graphs" if launch.engine == "sglang" else "what else is on the device"
        yield finding(
            "fraction-too-high", launch.where, flag=given.name, value=given.values[0], left=f"{1 - value:.0%}",
            rest=rest, default=row.default or FRACTION_EXAMPLES[launch.engine], means=row.means.split(";")[0],
        )  # fmt: skip


def fractions_copied(launches: list[Launch]) -> Iterator[Finding]:
    """The same number in engines that mean different things by it."""
    by_value: dict[float, dict[str, Launch]] = {}
    for launch in launches:
        value = as_fraction(launch.value("memory-fraction") or "") if launch.engine in FRACTION_EXAMPLES else None
        if value is not None:
            by_value.setdefault(value, {}).setdefault(launch.engine, launch)
    for value, found in by_value.items():
        if len(found) > 1:
            rows = [row for engine in found if (row := flag_for(engine, "memory-fraction"))]
            means = "; ".join(f"{row.engine} {row.means.split(';')[0]}" for row in rows)
            last = list(found.values())[-1]
            yield finding("fraction-copied", last.where, engines=" and ".join(found), value=value, means=means)


def as_fraction(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False
