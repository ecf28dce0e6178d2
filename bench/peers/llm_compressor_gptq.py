"""llm-compressor's GPTQ, W4A16 with groups of 128, symmetric, at its default settings, in an environment of its own.

Its interpreter is not ours: this file imports nothing of the project and nothing that llm-compressor does not bring.
Calibration windows come as token ids (`bench/tokens.py`), unpadded and unshuffled. `--method rtn` gives the plain
rounding of the same scheme. Timing covers `oneshot` and saving, not imports and loading.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--method", choices=["gptq", "rtn"], default="gptq")
    parser.add_argument(
        "--dtype", choices=["auto", "float32"], default="auto", help="dtype the model is loaded and run in"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    windows = json.loads(arguments.tokens.read_text(encoding="utf-8"))["windows"]
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(window) for window in windows]})
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    start = time.perf_counter()
    modifier = GPTQModifier if arguments.method == "gptq" else QuantizationModifier
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=data if arguments.method == "gptq" else None,
        recipe=modifier(targets="Linear", scheme="W4A16", ignore=["lm_head"]),
        num_calibration_samples=len(windows),
        max_seq_length=len(windows[0]),
        shuffle_calibration_samples=False,
    )
    model.save_pretrained(arguments.out, save_compressed=True)
    tokenizer.save_pretrained(arguments.out)
    seconds = time.perf_counter() - start

    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    libraries = {name: version(name) for name in ("llmcompressor", "compressed-tensors", "torch", "transformers")}
    report = {"seconds": seconds, "peak_memory_bytes": peak_kib * 1024, "libraries": libraries}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
