"""Peak memory and speed on a random model in the shape of Llama-3.1-8B, and that memory does not grow with depth.

    python bench/big_models.py --models DIR --work DIR --text FILE --json bench/results/big_models.json

Each case runs in a process of its own; the model is written by random_model.py unless it is there, and the artifact is
removed after each run. Exits with 1 when a process took more memory than its case allows, or when the same case takes
more than `GROWTH` more memory at more blocks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from process import run
from random_model import Shape, write_model

GIB = 1 << 30
GROWTH = 128 << 20  # bytes that more blocks may cost: the record of every tensor, and pages that an allocator kept
NO_TEXT = ("--calibration", "none")


@dataclass(frozen=True)
class Case:
    """One way to quantize, and what it may take."""

    flags: tuple[str, ...]
    bytes_allowed: int
    text: bool = False


CASES = {
    "rtn": Case(("--format", "compressed-tensors", "--bits", "4", *NO_TEXT), 4 * GIB),
    "fp8": Case(("--type", "FP8_DYNAMIC", *NO_TEXT), 4 * GIB),
    "q4_k_m": Case(("--type", "Q4_K_M", *NO_TEXT), 4 * GIB),
    "gptq": Case(("--format", "compressed-tensors", "--bits", "4", "--method", "gptq"), 6 * GIB, text=True),
}


@dataclass(frozen=True)
class Result:
    """What one run took."""

    case: str
    layers: int
    weights: int
    seconds: float
    processor_seconds: float
    seconds_per_billion_weights: float
    peak_memory_bytes: int
    bytes_allowed: int

    @property
    def holds(self) -> bool:
        return self.peak_memory_bytes <= self.bytes_allowed

    def line(self) -> str:
        return (
            f"{'ok  ' if self.holds else 'FAIL'} {self.case:8} {self.layers:3} blocks: "
            f"{self.peak_memory_bytes / GIB:.2f} GiB of {self.bytes_allowed / GIB:.0f}, {self.seconds:.0f} s, "
            f"{self.seconds_per_billion_weights:.1f} s per thousand million weights "
            f"({self.processor_seconds / self.weights * 1e9:.1f} of a processor)"
        )


def measure(name: str, layers: int, arguments: argparse.Namespace) -> Result:
    """Quantize once, and clean up."""
    case, model = CASES[name], arguments.models / f"random-8b-{layers}"
    weights = write_model(model, Shape(layers=layers))
    out = arguments.work / f"{name}-{layers}"
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "bitwright", "quantize", model, "--out", out, "--quiet", *case.flags]
    if case.text:
        command += ["--calibration", arguments.text, "--samples", str(arguments.samples)]
        command += ["--length", str(arguments.length)]
    try:
        cost = run(command, log=out.with_suffix(".log"))
    finally:
        shutil.rmtree(out, ignore_errors=True)
    return Result(
        case=name, layers=layers, weights=weights, seconds=cost.seconds, processor_seconds=cost.processor_seconds,
        seconds_per_billion_weights=cost.seconds / weights * 1e9, peak_memory_bytes=cost.peak_memory_bytes,
        bytes_allowed=case.bytes_allowed,
    )  # fmt: skip


def grown(results: list[Result]) -> list[str]:
    """Cases that take more memory at more blocks."""
    said = []
    for name in {result.case for result in results}:
        peaks = {result.layers: result.peak_memory_bytes for result in results if result.case == name}
        growth = peaks[max(peaks)] - peaks[min(peaks)]
        if growth > GROWTH:
            said.append(f"FAIL {name}: {growth / GIB:.2f} GiB more at {max(peaks)} blocks than at {min(peaks)}")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", type=Path, required=True, help="where random models lie, or are written")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--text", type=Path, help="calibration text of cases that read one")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--layers", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    results = []
    for name in arguments.cases:
        for layers in arguments.layers:
            results.append(measure(name, layers, arguments))
            print(results[-1].line(), flush=True)
            document = {"results": [asdict(result) for result in results]}
            arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    failures = grown(results)
    print(*failures, sep="\n")
    return 1 if failures or not all(result.holds for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
