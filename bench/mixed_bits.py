"""A byte budget over 4 and 8 bits of compressed-tensors against a mixture by hand: same size, lower divergence?

The mixture by hand is the one that people reach for: 8 bits for the first and the last blocks, inwards by turns, as
many as fit, 4 bits for the others. The size is half way between W4A16 and W8A16, or --share of the way. Both are made
through the command line from the same calibration tokens and judged by `bench/judge.py`.

Accepted when the budget's KL is below the other's on every text and its size within 0.5 % of what was asked. Exit code
1 when a line fails.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch

from judge import artifact_bytes, judge, named_paths, ratio_with_error, sha256
from ours import Run, quantize

SIZE_TOLERANCE = 0.005
FORMAT = ["--format", "compressed-tensors"]


def planned(model: Path, bits: int, eight: list[int] | None = None) -> int:
    """Bytes of the weights of a plan, some blocks in 8 bits."""
    from bitwright import api
    from bitwright.core.plan import Override

    wishes = [Override(pattern=f"model.layers.{layer}.*_proj", type="W8A16") for layer in eight or ()]
    return api.plan(model, format="compressed-tensors", bits=bits, overrides=wishes).file_bytes


def outer_blocks(model: Path, target: int) -> list[int]:
    """The blocks in 8 bits: first, last, second, last but one, … while the file stays within the target."""
    layers = json.loads((model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    order = [block for near in range((layers + 1) // 2) for block in dict.fromkeys((near, layers - 1 - near))]
    count = 0
    while count < layers and planned(model, 4, order[: count + 1]) <= target:
        count += 1
    return order[:count]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True, help="text file")
    parser.add_argument(
        "--text", action="append", required=True, metavar="[NAME=]FILE", help="the first is the main one"
    )
    parser.add_argument("--work", type=Path, required=True, help="our files; finished ones are reused")
    parser.add_argument("--fresh", action="store_true", help="run bitwright again where it has finished")
    parser.add_argument("--effort", choices=["fast", "balanced", "best"], default="balanced")
    parser.add_argument("--share", type=float, default=0.5, help="of the way from W4A16 to W8A16")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def made(name: str, flags: list[str], arguments: argparse.Namespace) -> Run:
    """One of the two."""
    return quantize(
        arguments.model,
        arguments.work / f"{arguments.model.name}-{name}-{arguments.effort}",
        [*FORMAT, "--effort", arguments.effort, *flags],
        calibration=arguments.calibration,
        samples=arguments.samples,
        length=arguments.length,
        threads=arguments.threads,
        fresh=arguments.fresh,
    )


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    texts = named_paths(arguments.text)
    four, eight = planned(arguments.model, 4), planned(arguments.model, 8)
    target = int(four + arguments.share * (eight - four))
    outer = outer_blocks(arguments.model, target)
    by_hand = [word for block in outer for word in ("--type", f"model.layers.{block}.*_proj=W8A16")]
    runs = {
        "budget": made("w4w8-budget", ["--target-size", str(target)], arguments),
        "outer blocks": made("w4w8-outer", ["--bits", "4", *by_hand], arguments),
    }
    if runs["budget"].calibration_sha256 != runs["outer blocks"].calibration_sha256:
        raise SystemExit("the two were calibrated on different tokens")
    artifacts = {name: run.artifact for name, run in runs.items()}
    results = judge(arguments.model, artifacts, texts, arguments.windows, arguments.length)
    size = artifact_bytes(artifacts["budget"]) / target
    lines: list[dict[str, Any]] = [
        {"what": "file size ÷ asked", "value": size, "limit": 1, "holds": 1 - SIZE_TOLERANCE <= size <= 1}
    ]
    for text, figures in results.items():
        ratio, error = ratio_with_error(figures["budget"]["kl_windows"], figures["outer blocks"]["kl_windows"])
        what = f"KL ÷ outer blocks' on {text}"
        lines.append({"what": what, "value": ratio, "error": error, "limit": 1, "holds": ratio < 1})
    document = {
        "model": arguments.model.name,
        "effort": arguments.effort,
        "bytes": {"W4A16": four, "W8A16": eight, "asked": target},
        "blocks_in_8_bits": outer,
        "calibration": {"file": arguments.calibration.name, "samples": arguments.samples, "length": arguments.length},
        "texts": {name: {"file": file.name, "sha256": sha256(file)} for name, file in texts.items()},
        "cost": {name: run.cost for name, run in runs.items()},
        "results": results,
        "acceptance": lines,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for entry in lines:
        verdict = "holds" if entry["holds"] else "FAILS"
        print(f"{verdict}  {entry['what']}: {entry['value']:.4g} (limit {entry['limit']:.4g})")
    sys.exit(0 if all(entry["holds"] for entry in lines) else 1)


if __name__ == "__main__":
    main()
