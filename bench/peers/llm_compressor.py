"""llm-compressor's methods in an environment of its own.

Its interpreter is not ours: this file imports nothing of the project and nothing that llm-compressor does not bring.
Calibration windows come as token ids (`bench/tokens.py`), unpadded and unshuffled. Every setting that is not an
argument here is llm-compressor's default: GPTQ with damping 0.01, static act-order and scales from the largest
magnitude (`--observer` takes another rule, `--actorder` another order), AWQ with 20 ratios and both kinds of scales.
Timing covers `oneshot` and saving, not imports and loading.

    gptq, rtn, awq, awq-gptq    weights in groups of --group-size, 4 bits, symmetric (W4A16)
    smoothquant-gptq            strength 0.8, then GPTQ; 8 bits per channel, inputs 8 bits per token (W8A8)
    fp8                         E4M3 per channel, inputs E4M3 per token (FP8_DYNAMIC); no calibration

AWQ of llm-compressor 0.14 asks for pinned memory, which torch refuses on a machine without an accelerator. It is left
unpinned here, so that AWQ can be measured; by itself it does not run on a processor.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from datasets import Dataset
from llmcompressor import oneshot
from llmcompressor.modifiers.gptq import GPTQModifier
from llmcompressor.modifiers.quantization import QuantizationModifier
from llmcompressor.modifiers.transform.awq import AWQModifier
from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier
from transformers import AutoModelForCausalLM, AutoTokenizer

METHODS = ("gptq", "rtn", "awq", "awq-gptq", "smoothquant-gptq", "fp8")
WITHOUT_DATA = ("rtn", "fp8")


def recipe(arguments: argparse.Namespace) -> list[Any]:
    """The modifiers of one method, in the order in which they run."""
    common: dict[str, Any] = {"ignore": ["lm_head"]}
    if arguments.observer is not None:
        common["weight_observer"] = arguments.observer
    if arguments.method == "fp8":
        return [QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", **common)]
    order = {} if arguments.actorder is None else {"actorder": arguments.actorder}
    if arguments.method == "smoothquant-gptq":
        return [
            SmoothQuantModifier(smoothing_strength=0.8),
            GPTQModifier(targets="Linear", scheme="W8A8", **common, **order),
        ]
    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=True, strategy="group", group_size=arguments.group_size
    )
    groups = {"group_0": QuantizationScheme(targets=["Linear"], weights=weights)}
    first = [AWQModifier()] if arguments.method.startswith("awq") else []
    if arguments.method in ("gptq", "awq-gptq"):
        return [*first, GPTQModifier(config_groups=groups, **common, **order)]
    return [*first, QuantizationModifier(config_groups=groups, **common)]


def leave_unpinned(tensor: torch.Tensor) -> torch.Tensor:
    """What takes the place of `pin_memory` where there is no accelerator."""
    return tensor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--method", choices=METHODS, default="gptq")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--observer", help="rule for the scales of weights: mse, memoryless_mse, imatrix_mse, ...")
    parser.add_argument("--actorder", choices=["static", "weight", "group"], help="of GPTQ; default static")
    parser.add_argument(
        "--dtype", choices=["auto", "float32"], default="auto", help="dtype the model is loaded and run in"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not torch.accelerator.is_available():
        torch.Tensor.pin_memory = leave_unpinned

    windows = json.loads(arguments.tokens.read_text(encoding="utf-8"))["windows"]
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(window) for window in windows]})
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=arguments.dtype)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    start = time.perf_counter()
    oneshot(
        model=model,
        tokenizer=tokenizer,
        dataset=None if arguments.method in WITHOUT_DATA and arguments.observer != "imatrix_mse" else data,
        recipe=recipe(arguments),
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
