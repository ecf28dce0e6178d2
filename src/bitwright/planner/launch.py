"""The command that serves a deployment, in the words of its engine.

Only what differs from the engine's default is said, except for what the prediction counted with: lengths, concurrency,
address. llama.cpp shares one context among its requests, so its context is the sum. Prefix caching is on by itself in
all but LMDeploy, chunked prefill in all but TensorRT-LLM. A memory fraction means something else in each engine
(facts/engine_flags.toml) and is left at its default unless it is given.

Not here: which flags there are (facts/engine_options), what they mean and since when (facts/engine_flags.toml).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePath

from bitwright.core.choices import ArtifactFormat
from bitwright.core.plan import DeviceFacts, ModelFacts
from bitwright.facts.folder_types import FOLDERS
from bitwright.planner.capability import capability_of
from bitwright.planner.deployment import SIXTEEN_BIT, Deployment
from bitwright.planner.engine_names import LMDEPLOY as LMDEPLOY
from bitwright.planner.engine_names import OLLAMA as OLLAMA
from bitwright.planner.engine_names import SGLANG, VLLM
from bitwright.planner.engine_names import TENSORRT_LLM as TENSORRT_LLM

ARTIFACT = "{artifact}"  # stands for the path in every line
HOST = "127.0.0.1"  # whoever opens it to others gives it a key, too
AMPERE = (8, 0)  # from here on there is bfloat16
TENSORRT_YAML, MODELFILE = "trtllm.yaml", "Modelfile"
LMDEPLOY_FORMATS: dict[ArtifactFormat, str] = {
    "safetensors": "hf",
    "awq": "awq",
    "gptq": "gptq",
    "compressed-tensors": "compressed-tensors",
    "fp8": "fp8",
}
LMDEPLOY_CACHE = {"int4": "4", "q8_0": "8", "fp8": "16"}  # --quant-policy; lmdeploy 0.18, cli/utils.py
GAUDI_CACHE = {"fp8": "fp8_inc"}  # vllm-gaudi, platform.py: its scales are measured with INC before
CACHE_TYPES = {SGLANG: {"fp8": "fp8_e4m3"}}  # where the engine's word is another
PORTS = {VLLM: 8000, SGLANG: 30000, TENSORRT_LLM: 8000, LMDEPLOY: 23333}


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Speculative decoding: a small model that drafts, or without one the text itself (n-grams)."""

    tokens: int  # drafted at a time
    draft: str = ""  # path of the small model


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What a launch line says. `requests` is None where nothing was said of how many come at once."""

    engine: str
    format: ArtifactFormat
    name: str  # of the model, for clients
    device: DeviceFacts
    context: int  # tokens of one request
    requests: int | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    kv_cache: str = SIXTEEN_BIT
    memory_fraction: float | None = None  # in the engine's own meaning
    speculation: Speculation | None = None


def serving_of(deployment: Deployment, speculation: Speculation | None = None) -> Serving:
    """One replica of a deployment."""
    return Serving(
        engine=deployment.engine,
        format=deployment.format,
        name=model_name(deployment.facts),
        device=deployment.target.device,
        context=min(deployment.target.context, deployment.facts.context),
        requests=deployment.requests,
        tensor_parallel=deployment.tensor_parallel,
        pipeline_parallel=deployment.pipeline_parallel,
        kv_cache=deployment.kv_cache,
        speculation=speculation,
    )


def model_name(facts: ModelFacts) -> str:
    """Under which clients ask for the model: the last part of its path."""
    return PurePath(facts.path).name or facts.family


def launch_line(serving: Serving) -> tuple[str, ...]:
    """The words of the command; `{artifact}` stands for the path of the file or folder."""
    if serving.engine == VLLM:
        return _vllm(serving)
    if serving.engine == SGLANG:
        return _sglang(serving)
    if serving.engine == TENSORRT_LLM:
        return _tensorrt_llm(serving)
    if serving.engine == LMDEPLOY:
        return _lmdeploy(serving)
    if serving.engine == OLLAMA:
        return ("ollama", "create", serving.name.lower(), "-f", MODELFILE)
    return _bitwright(serving)


def beside(serving: Serving) -> dict[str, str]:
    """Files that the line names, by name, with their text."""
    if serving.engine == TENSORRT_LLM:
        return {TENSORRT_YAML: _tensorrt_yaml(serving)}
    if serving.engine == OLLAMA:
        return {MODELFILE: f"FROM {ARTIFACT}\nPARAMETER num_ctx {serving.context}\n"}
    return {}


def llama_server_line(serving: Serving) -> tuple[str, ...]:
    """What `bitwright serve` does, as a line for llama.cpp's own server.

    `-fit off`, because it would otherwise change what was not said; all layers on the GPU, because the plan counted so.
    """
    requests = serving.requests or 1
    line = ["llama-server", "-m", ARTIFACT, "--alias", serving.name, "--host", HOST, "--port", "8080"]
    line += ["-c", str(serving.context * requests), "-np", str(requests), "-kvu", "-fit", "off"]
    line += ["-ngl", "all" if serving.device.kind == "gpu" else "0"]
    if serving.tensor_parallel > 1:
        line += ["-sm", "row"]
    if serving.kv_cache != SIXTEEN_BIT:
        line += ["-ctk", serving.kv_cache, "-ctv", serving.kv_cache, "-fa", "on"]
    if serving.speculation is not None and serving.speculation.draft:
        line += ["--spec-type", "draft-simple", "--spec-draft-model", serving.speculation.draft]
        line += ["--spec-draft-n-max", str(serving.speculation.tokens)]
    elif serving.speculation is not None:
        line += ["--spec-type", "ngram-simple"]
    return (*line, "--metrics", "--no-slots", "--no-ui")


def _bitwright(serving: Serving) -> tuple[str, ...]:
    line = ["bitwright", "serve", ARTIFACT, "--context", str(serving.context * (serving.requests or 1))]
    if serving.requests is not None:
        line += ["--parallel", str(serving.requests)]
    if serving.kv_cache != SIXTEEN_BIT:
        line += ["--kv-cache", serving.kv_cache]
    return tuple(line)


def _vllm(serving: Serving) -> tuple[str, ...]:
    line = ["vllm", "serve", ARTIFACT, *_address(serving), "--max-model-len", str(serving.context)]
    if serving.requests is not None:
        line += ["--max-num-seqs", str(serving.requests)]
    line += _half(serving, "half")
    line += _parallel(serving, "--tensor-parallel-size", "--pipeline-parallel-size")
    if serving.memory_fraction is not None:
        line += ["--gpu-memory-utilization", f"{serving.memory_fraction:.2f}"]
    if serving.speculation is not None:
        line += speculation_words(serving, serving.speculation)
    return (*line, *kv_cache_words(serving.engine, serving.kv_cache, serving.device))


def speculation_words(serving: Serving, speculation: Speculation) -> list[str]:
    """How an engine is told to speculate on its line; empty for one that reads it elsewhere."""
    if serving.engine == VLLM:
        return ["--speculative-config", json.dumps(_vllm_speculation(speculation), separators=(",", ":"))]
    return _sglang_speculation(speculation) if serving.engine == SGLANG else []


def _vllm_speculation(speculation: Speculation) -> dict[str, str | int]:
    drafting: dict[str, str | int] = {"num_speculative_tokens": speculation.tokens}
    if speculation.draft:
        return {"method": "draft_model", "model": speculation.draft, **drafting}
    return {"method": "ngram", **drafting, "prompt_lookup_max": speculation.tokens}


def _sglang(serving: Serving) -> tuple[str, ...]:
    line = ["sglang", "serve", "--model-path", ARTIFACT, *_address(serving)]
    line += ["--context-length", str(serving.context), "--enable-metrics"]
    if serving.requests is not None:
        line += ["--max-running-requests", str(serving.requests)]
    line += _half(serving, "half")
    line += _parallel(serving, "--tp-size", "--pp-size")
    if serving.memory_fraction is not None:
        line += ["--mem-fraction-static", f"{serving.memory_fraction:.2f}"]
    if serving.speculation is not None:
        line += speculation_words(serving, serving.speculation)
    return (*line, *kv_cache_words(serving.engine, serving.kv_cache, serving.device))


def _sglang_speculation(speculation: Speculation) -> list[str]:
    """Steps, branches and tokens are given together or not at all: the last token of a draft is the model's own."""
    if not speculation.draft:
        return ["--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", str(speculation.tokens)]
    line = ["--speculative-algorithm", "STANDALONE", "--speculative-draft-model-path", speculation.draft]
    line += ["--speculative-num-steps", str(speculation.tokens), "--speculative-eagle-topk", "1"]
    return [*line, "--speculative-num-draft-tokens", str(speculation.tokens + 1)]


def _tensorrt_llm(serving: Serving) -> tuple[str, ...]:
    line = ["trtllm-serve", ARTIFACT, "--host", HOST, "--port", str(PORTS[TENSORRT_LLM])]
    line += ["--max_seq_len", str(serving.context)]
    if serving.requests is not None:
        line += ["--max_batch_size", str(serving.requests)]
    line += _parallel(serving, "--tp_size", "--pp_size")
    if serving.memory_fraction is not None:
        line += ["--kv_cache_free_gpu_memory_fraction", f"{serving.memory_fraction:.2f}"]
    return (*line, "--config", TENSORRT_YAML)


def _tensorrt_yaml(serving: Serving) -> str:
    text = "enable_chunked_prefill: true\nreturn_perf_metrics: true\n"
    if serving.kv_cache != SIXTEEN_BIT:
        text += f"kv_cache_config:\n  dtype: {serving.kv_cache}\n"
    if serving.speculation is not None:
        kind = "DraftTarget" if serving.speculation.draft else "NGram"
        text += f"speculative_config:\n  decoding_type: {kind}\n  max_draft_len: {serving.speculation.tokens}\n"
        if serving.speculation.draft:
            text += f"  speculative_model_dir: {json.dumps(serving.speculation.draft)}\n"
    return text


def _lmdeploy(serving: Serving) -> tuple[str, ...]:
    line = ["lmdeploy", "serve", "api_server", ARTIFACT, "--model-name", serving.name]
    line += ["--server-name", HOST, "--server-port", str(PORTS[LMDEPLOY])]
    line += ["--model-format", LMDEPLOY_FORMATS[serving.format], "--session-len", str(serving.context)]
    if serving.requests is not None:
        line += ["--max-batch-size", str(serving.requests)]
    line += _half(serving, "float16")
    line += ["--tp", str(serving.tensor_parallel)] if serving.tensor_parallel > 1 else []
    if serving.memory_fraction is not None:
        line += ["--cache-max-entry-count", f"{serving.memory_fraction:.2f}"]
    if serving.kv_cache != SIXTEEN_BIT:
        line += ["--quant-policy", LMDEPLOY_CACHE[serving.kv_cache]]
    return (*line, "--enable-prefix-caching")


def kv_cache_words(engine: str, kv_cache: str, device: DeviceFacts) -> tuple[str, ...]:
    """How vLLM and SGLang are told the type of keys and values."""
    if kv_cache == SIXTEEN_BIT:
        return ()
    words = GAUDI_CACHE if _is_gaudi(device) else CACHE_TYPES.get(engine, {})
    return ("--kv-cache-dtype", words.get(kv_cache, kv_cache))


def _is_gaudi(device: DeviceFacts) -> bool:
    return device.architecture.startswith("gaudi")


def _address(serving: Serving) -> list[str]:
    return ["--served-model-name", serving.name, "--host", HOST, "--port", str(PORTS[serving.engine])]


def _parallel(serving: Serving, tensors: str, stages: str) -> list[str]:
    line = [tensors, str(serving.tensor_parallel)] if serving.tensor_parallel > 1 else []
    return line + ([stages, str(serving.pipeline_parallel)] if serving.pipeline_parallel > 1 else [])


def _half(serving: Serving, word: str) -> list[str]:
    """Kernels of GPTQ, AWQ and bitsandbytes folders are written for float16; devices before Ampere have no bfloat16."""
    capability = capability_of(serving.device)
    old = capability is not None and capability < AMPERE
    halves = serving.format in FOLDERS and not _is_gaudi(serving.device)  # which has no float16
    return ["--dtype", word] if old or halves else []
