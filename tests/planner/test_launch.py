"""Launch lines: complete, taken by the engines' parsers, and obeyed by `bitwright serve`."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest

from bitwright.core.choices import ArtifactFormat
from bitwright.core.plan import DeviceFacts
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
def test_every_line_is_taken_by_vllm() -> None:
    if python_of(VLLM) is None:
        pytest.skip("no environment for loaders here (`make loaders`)")
    lines = sorted({launch_line(serving)[2:] for serving in every_serving(VLLM)})
    assert ask(VLLM, "--parse", lines=lines) == [None] * len(lines)


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
