"""Run by the Python of another environment: loaders that pin packages which clash with ours, GPTQModel and vLLM.

    python other_environment.py LOADER TASK RESULT

TASK is JSON, `{"prompt": [token, …], "vocab": V, "artifacts": [[folder, dtype], …]}`. RESULT gets one line of JSON per
artifact: `{"artifact", "version", "tokens", "logprobs"}`, where the rows of `logprobs` [N, V] belong to the last N
tokens; or `{"artifact", "version", "stage", "error"}`. Nothing of bitwright is imported here.

vLLM generates greedily, four tokens, so that keys and values are read back from its cache too.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.machinery
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

GENERATED = 4
Answer = dict[str, Any]


def gptqmodel(task: dict[str, Any]) -> Iterator[Answer]:
    """GPTQModel's own decoding in torch."""
    import torch
    import transformers

    transformers.PreTrainedModel, transformers.LlamaForCausalLM  # noqa: B018  before the stand-in below is seen
    # It imports torchvision for one model with pictures; the builds of it do not load beside torch for processors.
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
        module: Any = types.ModuleType(name)
        module.__spec__, module.__path__, module.InterpolationMode = (
            importlib.machinery.ModuleSpec(name, None),
            [],
            None,
        )
        sys.modules[name] = module
    from gptqmodel import GPTQModel

    for artifact, dtype in task["artifacts"]:
        try:
            model = GPTQModel.load(artifact, device="cpu", backend="torch", dtype=getattr(torch, dtype)).model.float()
            with torch.no_grad():
                logits = model(torch.tensor([task["prompt"]])).logits[0].float()
        except Exception as error:  # noqa: BLE001  whatever it is, its words are the answer
            yield {"artifact": artifact, "stage": "load", "error": repr(error)}
            continue
        yield {"artifact": artifact, "tokens": task["prompt"], "logprobs": torch.log_softmax(logits, -1).tolist()}


def vllm(task: dict[str, Any]) -> Iterator[Answer]:
    """vLLM's engine in this process, one artifact after the other."""
    os.environ |= {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory
    from vllm.inputs import TokensPrompt

    sampling = SamplingParams(max_tokens=GENERATED, temperature=0, logprobs=-1, ignore_eos=True, detokenize=False)
    for artifact, dtype in task["artifacts"]:
        stage = "load"
        try:
            engine = LLM(
                artifact, enforce_eager=True, max_model_len=128, max_num_seqs=1, max_logprobs=-1, dtype=dtype,
                skip_tokenizer_init=True, num_gpu_blocks_override=8,  # instead of a cache of a GiB
            )  # fmt: skip
            stage = "first token"
            prompt = TokensPrompt(prompt_token_ids=task["prompt"])
            found = engine.generate(prompt, sampling, use_tqdm=False)[0].outputs[0]
        except Exception as error:  # noqa: BLE001  whatever it is, its words are the answer
            yield {"artifact": artifact, "stage": stage, "error": repr(error)}
        else:
            rows = [[step[token].logprob for token in range(task["vocab"])] for step in found.logprobs]
            yield {"artifact": artifact, "tokens": [*task["prompt"], *found.token_ids[:-1]], "logprobs": rows}
        engine = None
        cleanup_dist_env_and_memory()
        gc.collect()


LOADERS: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[Answer]]]] = {
    "GPTQModel": ("gptqmodel", gptqmodel),
    "vLLM": ("vllm-cpu", vllm),
}


def main(loader: str, task: Path, result: Path) -> None:
    """Answer for every artifact; what was answered stays when the process dies at the next one."""
    package, run = LOADERS[loader]
    with result.open("w") as handle, contextlib.redirect_stdout(sys.stderr):
        for answer in run(json.loads(task.read_text())):
            handle.write(json.dumps({"version": metadata.version(package), **answer}) + "\n")
            handle.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
