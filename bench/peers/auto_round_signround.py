"""AutoRound's tuned rounding (SignRound), weights only, symmetric, in an environment of its own.

Its interpreter is not ours: this file imports nothing of the project. Calibration windows come as token ids
(`bench/tokens.py`). Everything that is not an argument here is AutoRound's default: batches of 8 windows, gradient
steps on rounding and on the ends of each group's range, bfloat16 where the processor has it. AutoRound masks the last
token of every window.

The file is of AutoGPTQ's layout, which `bench/judge.py` decodes.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path

import torch
from auto_round import AutoRound
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    windows = json.loads(arguments.tokens.read_text(encoding="utf-8"))["windows"]
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype="auto")
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    start = time.perf_counter()
    tuner = AutoRound(
        model,
        tokenizer,
        scheme="W4A16",
        group_size=arguments.group_size,
        iters=arguments.iterations,
        nsamples=len(windows),
        seqlen=len(windows[0]),
        batch_size=arguments.batch,
        dataset=list(torch.tensor(windows).split(arguments.batch)),
        device_map="cpu",
        enable_torch_compile=False,
    )
    tuner.quantize_and_save(str(arguments.out), format="auto_gptq")
    seconds = time.perf_counter() - start

    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    libraries = {name: version(name) for name in ("auto-round", "torch", "transformers")}
    settings = {"iterations": arguments.iterations, "batch": arguments.batch}
    report = {"seconds": seconds, "peak_memory_bytes": peak_kib * 1024, "settings": settings, "libraries": libraries}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
