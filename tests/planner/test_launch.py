"""Launch lines: complete, taken by the engines' parsers, and obeyed by `bitwright serve`."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json

import pytest
from typer.main import get_command

from bitwright import api
from bitwright.cli.app import app
from bitwright.core.choices import ArtifactFormat
from bitwright.core.plan import DeviceFacts, Plan
from bitwright.core.ranking import Option
from bitwright.core.target import QualityFloor, Target, Workload
from bitwright.core.units import GIB
from bitwright.facts.engine_options import problems
from bitwright.facts.hardware import find_device
from bitwright.planner.deployment import SIXTEEN_BIT, Deployment
from bitwright.planner.launch import (
    LMDEPLOY,
    LMDEPLOY_FORMATS,
    OLLAMA,
    TENSORRT_LLM,
    Serving,
    Speculation,
    beside,
    launch_line,
    llama_server_line,
    serving_of,
)
from bitwright.planner.memory import LLAMA_CPP, SGLANG, VLLM
from bitwright.planner.wish import Wish
from facts.engine_parsers import ask, python_of
from model_shapes import shaped_facts

CPU = DeviceFacts(name="a processor", kind="cpu", memory_bytes=16 * GIB)
H100, T4 = find_device("h100-sxm:8"), find_device("t4")
BASE = Serving(engine=VLLM, format="compressed-tensors", name="m", device=H100, context=8192)
PREFIX = {VLLM: 2, SGLANG: 2, TENSORRT_LLM: 1, LMDEPLOY: 3}  # words before the flags
FORMATS: dict[str, tuple[ArtifactFormat, ...]] = {
    VLLM: ("compressed-tensors", "gptq", "fp8", "safetensors"),
    SGLANG: ("compressed-tensors", "bitsandbytes"),
    TENSORRT_LLM: ("modelopt", "fp8"),
    LMDEPLOY: tuple(LMDEPLOY_FORMATS),
}


WRONG = {
    VLLM: [("m", "--swap-space", "4"), ("m", "--kv-cache-dtype", "int7")],
    SGLANG: [("--model-path", "m", "--kv-cache-dtype", "int7")],
    LMDEPLOY: [("m", "--model-format", "gguf7")],
}
PLANNED: tuple[tuple[str, str, dict[str, object]], ...] = (
    ("llama-3.1-70b", "h100-sxm:4", {"concurrency": 64}),
    ("llama-3.1-70b", "rtx3090:4", {"engine": ("vllm", "sglang"), "concurrency": 4}),
    ("llama-3.1-8b", "t4", {"engine": ("vllm", "llama.cpp"), "workload": "rag"}),
    ("llama-3.1-8b", "rtx4090", {"engine": ("vllm", "sglang", "llama.cpp"), "kv_cache": "fp8"}),
    ("mixtral-8x7b", "a100-80-sxm:2", {"workload": "batch", "aim": "cost"}),
    ("llama-3.1-70b", "h200-sxm:2", {"aim": "latency", "concurrency": 1, "user_speed": 20.0}),
    ("qwen2.5-vl-7b", "l40s", {"workload": "vlm"}),
    ("llama-3.1-8b", "cpu-avx2", {"concurrency": 4}),
    ("phi-4", "b200-sxm", {"workload": "agent"}),
)


@functools.cache
def plans() -> tuple[Plan, ...]:
    """Of all kinds of devices, loads and engines."""
    return tuple(api.plan(model, target=target, wish=Wish(**said)) for model, target, said in PLANNED)  # type: ignore[arg-type]


def ways(plan: Plan) -> tuple[Option, ...]:
    return () if plan.ranking is None else plan.ranking.options


def every_serving(engine: str) -> list[Serving]:
    """All that lines of an engine can say, in all combinations."""
    drafts = (None, Speculation(tokens=3), Speculation(tokens=3, draft="small"))
    caches = (SIXTEEN_BIT, "q8_0" if engine == LLAMA_CPP else "fp8")
    return [
        Serving(
            engine=engine, format=format, name="m", device=device, context=4096, requests=requests, kv_cache=cache,
            tensor_parallel=parallel[0], pipeline_parallel=parallel[1], memory_fraction=fraction, speculation=draft,
        )
        for format, device, requests, cache, parallel, fraction, draft in itertools.product(
            FORMATS.get(engine, ("gguf",)), (CPU, T4, H100), (None, 16), caches, ((1, 1), (4, 2)), (None, 0.9), drafts
        )
    ]  # fmt: skip


@pytest.mark.parametrize("engine", PREFIX)
def test_every_line_parses(engine: str) -> None:
    lines = {launch_line(serving) for serving in every_serving(engine)}
    assert len(lines) >= 8
    for line in lines:
        assert problems(engine, line[PREFIX[engine] :]) == [], line


def test_every_stock_line_is_taken_by_llama_cpp() -> None:
    lines = sorted({llama_server_line(serving)[1:] for serving in every_serving(LLAMA_CPP)})
    assert not any(problems("llama.cpp", line) for line in lines)
    assert ask("llama.cpp", "--parse", lines=lines) == [None] * len(lines)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [VLLM, SGLANG, LMDEPLOY])
def test_every_line_is_taken_by_the_engine(engine: str) -> None:
    if python_of(engine) is None:
        pytest.skip("the engine is not here (`make loaders wheels`)")
    lines = {launch_line(serving)[PREFIX[engine] :] for serving in every_serving(engine)}
    lines |= {option.launch[PREFIX[engine] :] for plan in plans() for option in ways(plan) if option.engine == engine}
    taken = sorted(lines)
    assert ask(engine, "--parse", lines=taken) == [None] * len(taken)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [VLLM, SGLANG, LMDEPLOY])
def test_the_engine_refuses_what_the_record_refuses(engine: str) -> None:
    if python_of(engine) is None:
        pytest.skip("the engine is not here (`make loaders wheels`)")
    wrong = [("m", "--no-such-flag"), ("m", "--max-model-length"), *WRONG[engine]]
    assert all(problems(engine, line) for line in wrong)
    assert None not in ask(engine, "--parse", lines=wrong)


def test_lines_of_plans_are_taken() -> None:
    """What plans offer, by the records of the engines; `bitwright serve` by its own parser."""
    found = set()
    for plan in plans():
        for engine, line in ((plan.engine, plan.launch), *((option.engine, option.launch) for option in ways(plan))):
            found.add(engine)
            if engine == LLAMA_CPP:
                serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]
                assert serve.make_context("serve", [*line[2:]]).params["artifact"]
            else:
                assert problems(engine, line[PREFIX[engine] :]) == [], line
    assert found == {VLLM, SGLANG, LLAMA_CPP}


def test_vllm_s_line_is_complete() -> None:
    asked = dataclasses.replace(
        BASE, requests=32, tensor_parallel=4, kv_cache="fp8", speculation=Speculation(tokens=4, draft="small")
    )
    assert launch_line(asked) == (
        *("vllm", "serve", "{artifact}", "--served-model-name", "m", "--host", "127.0.0.1", "--port", "8000"),
        *("--max-model-len", "8192", "--max-num-seqs", "32", "--tensor-parallel-size", "4", "--speculative-config"),
        '{"method":"draft_model","model":"small","num_speculative_tokens":4}',
        *("--kv-cache-dtype", "fp8"),
    )
    on_t4 = launch_line(dataclasses.replace(BASE, device=T4))
    assert on_t4[on_t4.index("--dtype") + 1] == "half"
    ngrams = launch_line(dataclasses.replace(BASE, speculation=Speculation(tokens=4)))
    assert json.loads(ngrams[-1]) == {"method": "ngram", "num_speculative_tokens": 4, "prompt_lookup_max": 4}


def test_defaults_are_not_said() -> None:
    for engine in (VLLM, SGLANG):
        words = " ".join(launch_line(dataclasses.replace(BASE, engine=engine, requests=8)))
        assert not any(word in words for word in ("prefix", "chunked", "fraction", "utilization", "dtype", "-size"))
    assert "--enable-prefix-caching" in launch_line(dataclasses.replace(BASE, engine=LMDEPLOY))  # off by default there


def test_words_of_other_engines() -> None:
    sglang = launch_line(dataclasses.replace(BASE, engine=SGLANG, tensor_parallel=2, kv_cache="fp8"))
    assert sglang[:4] == ("sglang", "serve", "--model-path", "{artifact}")
    assert sglang[-4:-2] == ("--tp-size", "2")
    assert sglang[-2:] == ("--kv-cache-dtype", "fp8_e4m3")
    tensorrt = dataclasses.replace(BASE, engine=TENSORRT_LLM, kv_cache="fp8", speculation=Speculation(tokens=2))
    assert launch_line(tensorrt)[-2:] == ("--config", "trtllm.yaml")
    assert beside(tensorrt)["trtllm.yaml"].splitlines() == [
        *("enable_chunked_prefill: true", "return_perf_metrics: true", "kv_cache_config:", "  dtype: fp8"),
        *("speculative_config:", "  decoding_type: NGram", "  max_draft_len: 2"),
    ]
    lmdeploy = launch_line(dataclasses.replace(BASE, engine=LMDEPLOY, format="awq", kv_cache="fp8"))
    assert lmdeploy[-3:] == ("--quant-policy", "16", "--enable-prefix-caching")
    ollama = dataclasses.replace(BASE, engine=OLLAMA, format="gguf")
    assert beside(ollama) == {"Modelfile": "FROM {artifact}\nPARAMETER num_ctx 8192\n"}


def test_llama_cpp_shares_one_context() -> None:
    asked = dataclasses.replace(BASE, engine=LLAMA_CPP, format="gguf", requests=4, kv_cache="q8_0", device=CPU)
    assert launch_line(asked) == (
        *("bitwright", "serve", "{artifact}", "--context", "32768", "--parallel", "4", "--kv-cache", "q8_0"),
    )
    stock = " ".join(llama_server_line(asked))
    assert "-c 32768 -np 4 -kvu -fit off -ngl 0 -ctk q8_0 -ctv q8_0 -fa on" in stock


def test_of_a_deployment() -> None:
    target = Target(
        device=H100,
        workload=Workload(load="chat", prompt_tokens=1024, output_tokens=256, concurrency=48),
        floor=QualityFloor(use_case="chat", perplexity_delta=0.3, kl_mean=0.1),
        context=4096,
    )
    deployment = Deployment(
        facts=shaped_facts(), type="FP8_DYNAMIC", format="compressed-tensors", tensors=(), engine=VLLM, kernel=None,
        target=target, tensor_parallel=2, replicas=2, kv_cache="fp8",
    )  # fmt: skip
    line = " ".join(launch_line(serving_of(deployment)))
    assert "--max-num-seqs 24 --tensor-parallel-size 2 --kv-cache-dtype fp8" in line
