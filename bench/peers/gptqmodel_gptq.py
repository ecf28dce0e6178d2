"""GPTQModel's GPTQ, weights only, 4 bits, symmetric, in an environment of its own.

Its interpreter is not ours: this file imports nothing of the project. Calibration windows come as token ids
(`bench/tokens.py`). What is not an argument here is GPTQModel's default, its group-aware order of columns included.
GPTQModel 7.7 asks for torch 2.14; installed without its dependencies it runs on torch 2.13 all the same (README.md).

The file is of GPTQ's layout, which `bench/judge.py` decodes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from importlib.metadata import version
from pathlib import Path

import torch

# With two cores it plans one worker and then asks for two (7.7, gptqmodel/__init__.py); its own switch helps.
os.environ.setdefault("GPTQMODEL_CPU_WORKERS", "2")
from gptqmodel import BACKEND, GPTQModel, QuantizeConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument(
        "--mse", type=float, default=0.0, help="exponent of its search for scales; 0: largest magnitude"
    )
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    windows = json.loads(arguments.tokens.read_text(encoding="utf-8"))["windows"]
    data = [{"input_ids": window, "attention_mask": [1] * len(window)} for window in windows]
    settings = QuantizeConfig(bits=4, group_size=arguments.group_size, mse=arguments.mse)
    model = GPTQModel.load(str(arguments.model), settings, device="cpu")

    start = time.perf_counter()
    model.quantize(data, batch_size=1, backend=BACKEND.TORCH)
    model.save(str(arguments.out))
    seconds = time.perf_counter() - start

    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    libraries = {name: version(name) for name in ("gptqmodel", "torch", "transformers")}
    report = {"seconds": seconds, "peak_memory_bytes": peak_kib * 1024, "mse": arguments.mse, "libraries": libraries}
    arguments.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
