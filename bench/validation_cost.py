"""What a validation costs beside the two forward passes that it cannot do without, and its peak memory.

Two bare passes: transformers' model in float32 on the same windows, all logits, loading not counted, times two
(original and decoded artifact have one shape). Validations are whole processes of the command line, libraries and
decoding counted, in four states: nothing kept (the floors of the original are measured too), floors kept, floors kept
and the original's logits written, and everything kept. Aims: 1.2 times the two passes, 0.7 times from kept logits, peak
memory of 1.5 times the float32 model.

Passes are taken before and after the validations, because a machine is seldom as fast twice; in a process of their own,
because the peak memory of a process starts at what its parent held when it was forked.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from process import Measured, run

AIMS = {"floors kept": 1.2, "from kept logits": 0.7}
MEMORY_AIM = 1.5


def bare_pass(reference: Path, text: Path, windows: int, length: int) -> tuple[float, float, int]:
    """Wall seconds and processor seconds of one pass over all windows, and the bytes of the float32 model."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(reference)(text.read_text(encoding="utf-8"), verbose=False)["input_ids"]
    tokens = torch.tensor(ids[: windows * length]).view(windows, length)
    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32).eval()
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    with torch.inference_mode():
        model(tokens[:1], use_cache=False)  # what is made at the first call is not counted
        wall, processor = time.perf_counter(), time.process_time()
        for window in tokens:
            model(window[None], use_cache=False)
    return time.perf_counter() - wall, time.process_time() - processor, size


def apart(*asked: Any) -> tuple[float, float, int]:
    """`bare_pass` in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found: tuple[float, float, int] = pool.apply(bare_pass, asked)
        return found


def validation(command: list[str], cache: Path, log: Path, extra: list[str]) -> tuple[Measured, dict[str, Any]]:
    """One run of the command, and its record."""
    out = log.with_suffix(".json")
    environment = {"BITWRIGHT_CACHE": str(cache)}
    words = [sys.executable, "-c", "import sys; from bitwright.cli.app import run; run()", *command]
    measured = run([*words, "--quiet", "--out", out, *extra], log=log, environment=environment, allowed=(0, 1, 4))
    record: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return measured, record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("artifact", type=Path, help="an artifact; what lies in it is not changed when it is a copy")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "validation_cost")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    arguments.work.mkdir(parents=True)
    cache, kept = arguments.work / "cache", ["--reference-cache", str(arguments.work / "logits")]
    asked = (arguments.reference, arguments.text, arguments.windows, arguments.length)
    passes = [apart(*asked)]
    command = [
        "validate", str(arguments.artifact), "--reference", str(arguments.reference), "--text", str(arguments.text),
        "--windows", str(arguments.windows), "--length", str(arguments.length), "--seed", "0",
    ]  # fmt: skip
    runs: dict[str, dict[str, Any]] = {}
    for name, extra in (
        ("nothing kept", []), ("floors kept", []), ("logits written", kept), ("from kept logits", kept),
    ):  # fmt: skip
        measured, record = validation(command, cache, arguments.work / f"{name.replace(' ', '_')}.log", extra)
        figures = {key: record["texts"][0][key] for key in ("kl_mean", "cache_error")}
        runs[name] = measured.document() | {"record_seconds": record["seconds"]} | figures
        print(f"{name}: {measured.seconds:.1f} s, {measured.peak_memory_bytes / 2**20:.0f} MiB", flush=True)
    passes.append(apart(*asked))
    wall, processor = (2 * statistics.fmean(values) for values in list(zip(*passes, strict=True))[:2])
    size = passes[0][2]
    for name, figures in runs.items():
        figures["wall_over_two_passes"] = figures["seconds"] / wall
        figures["processor_over_two_passes"] = figures["processor_seconds"] / processor
        figures["memory_over_model"] = figures["peak_memory_bytes"] / size
        figures["aim"] = AIMS.get(name)
    document = {
        "reference": arguments.reference.name, "artifact": arguments.artifact.name,
        "windows": arguments.windows, "length": arguments.length, "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "two_passes": {"seconds": wall, "processor_seconds": processor}, "float32_model_bytes": size,
        "memory_aim": MEMORY_AIM, "runs": runs,
    }  # fmt: skip
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
