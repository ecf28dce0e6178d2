"""bitwright against llama-quantize with an importance matrix: same tensor types, same bytes, lower divergence?

Both see the same calibration tokens: `llama-imatrix` its first N chunks, bitwright its first N windows; the ids are
held against the perplexities that llama-imatrix printed (`bench/tokens.py`) and against the digest in `quant.json`.
Files are compared tensor by tensor with the `gguf` library, and judged by `bench/judge.py`.

Accepted when, for every preset, tensor types are equal and the file sizes differ by at most 0.1 %; KL is at most
--kl-limit times the peer's on the first text and --kl-limit-other on the others (the presets named by --strict), and
below the peer's for all other presets. Exit code 1 when a line fails.

--plain compares the weighted search alone: both tools read the same importance matrix and nothing is fed back. Each
tool is run --repeats times in turn, whole processes from start to exit on --threads threads; medians of wall and
processor seconds are compared. Accepted when KL is at most --plain-kl times the peer's and both kinds of seconds at
most --plain-time times.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader

from judge import judge, named_paths, ratio_with_error, sha256
from ours import Run, digest, quantize, quantize_plain
from peers.llama_quantize import LlamaCpp, cost, imatrix_file, quantize_again, quantized_file
from tokens import check_imatrix_log, cut, encode

SIZE_TOLERANCE = 1e-3
BUDGET_TOLERANCE = 0.005


def tensor_types(file: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of every tensor of a GGUF file."""
    return {t.name: (t.tensor_type.name, tuple(int(size) for size in t.shape)) for t in GGUFReader(file).tensors}


def compare_files(ours: Path, theirs: Path) -> dict[str, Any]:
    """Types, shapes and sizes side by side."""
    a, b = tensor_types(ours), tensor_types(theirs)
    different = {name: [a.get(name), b.get(name)] for name in sorted({*a, *b}) if a.get(name) != b.get(name)}
    return {
        "types_theirs": dict(Counter(kind for kind, _ in b.values())),
        "types_different": different,
        "bytes": ours.stat().st_size,
        "bytes_theirs": theirs.stat().st_size,
        "bytes_ratio": ours.stat().st_size / theirs.stat().st_size,
    }


def compare_figures(results: dict[str, Any], kind: str) -> dict[str, Any]:
    """Both judgements on every text, and the ratio of the divergences with its error clustered by window."""
    compared = {}
    for text, figures in results.items():
        ours, theirs = figures[f"{kind} bitwright"], figures[f"{kind} llama-quantize"]
        ratio, error = ratio_with_error(ours["kl_windows"], theirs["kl_windows"])
        compared[text] = {"kl_ratio": ratio, "kl_ratio_error": error, "bitwright": ours, "llama-quantize": theirs}
    return compared


def acceptance(presets: dict[str, Any], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One line for every condition, with the figure and whether it holds."""
    lines = []

    def line(what: str, value: float, limit: float, holds: bool) -> None:
        lines.append({"what": what, "value": value, "limit": limit, "holds": holds})

    for kind, found in presets.items():
        ratio = found["files"]["bytes_ratio"]
        if arguments.budget:
            line(f"{kind}: file size ÷ peer's", ratio, 1, 1 - BUDGET_TOLERANCE <= ratio <= 1)
        else:
            different = len(found["files"]["types_different"])
            line(f"{kind}: tensors of another type or shape", different, 0, different == 0)
            line(f"{kind}: file size ÷ peer's", ratio, 1 + SIZE_TOLERANCE, abs(ratio - 1) <= SIZE_TOLERANCE)
        if arguments.plain:
            for text, figures in found["texts"].items():
                line(f"{kind}: KL ÷ peer's on {text}", figures["kl_ratio"], arguments.plain_kl,
                     figures["kl_ratio"] <= arguments.plain_kl)  # fmt: skip
            for measure in ("seconds", "processor_seconds"):
                ours, theirs = (median(found[side], measure) for side in ("runs", "runs_theirs"))
                line(f"{kind}: {measure.replace('_', ' ')} ÷ peer's", ours / theirs, arguments.plain_time,
                     ours / theirs <= arguments.plain_time)  # fmt: skip
            continue
        for index, (text, figures) in enumerate(found["texts"].items()):
            strict = arguments.kl_limit if index == 0 else arguments.kl_limit_other
            limit = strict if kind in arguments.strict else 1.0
            ratio = figures["kl_ratio"]
            # A limit of 1 means "below the peer's"; the stated limits may be met exactly.
            line(f"{kind}: KL ÷ peer's on {text}", ratio, limit, ratio < 1 if limit == 1 else ratio <= limit)
    return lines


def median(runs: list[dict[str, float]], measure: str) -> float:
    return statistics.median(run[measure] for run in runs)


def make_plain(kind: str, arguments: argparse.Namespace, imatrix: Path) -> dict[str, Any]:
    """Both tools in turn on the same importance matrix: files, and what every run cost."""
    tools = LlamaCpp(arguments.llama_programs, arguments.llama_source, arguments.threads)
    theirs = quantized_file(tools, arguments.model, arguments.peers_dir, imatrix, kind)
    out, spare = arguments.work / f"{arguments.model.name}-{kind}-plain", arguments.work / "peer-again.gguf"
    runs: dict[str, list[dict[str, float | int]]] = {"runs": [], "runs_theirs": []}
    for _ in range(arguments.repeats):
        ours, measured = quantize_plain(arguments.model, out, kind, imatrix, arguments.threads)
        runs["runs"].append(measured)
        runs["runs_theirs"].append(quantize_again(tools, arguments.model, arguments.peers_dir, imatrix, kind, spare))
    return {"files": compare_files(ours, theirs), "ours": ours, "theirs": theirs, **runs}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--types", nargs="+", default=["Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"])
    parser.add_argument("--calibration", type=Path, required=True, help="text file")
    parser.add_argument(
        "--text", action="append", required=True, metavar="[NAME=]FILE", help="the first is the main one"
    )
    parser.add_argument("--llama-programs", type=Path, required=True, help="folder of llama-quantize and llama-imatrix")
    parser.add_argument("--llama-source", type=Path, required=True, help="folder of convert_hf_to_gguf.py")
    parser.add_argument("--peers-dir", type=Path, required=True, help="their files; what exists is reused")
    parser.add_argument("--work", type=Path, required=True, help="our files; finished ones are reused")
    parser.add_argument("--fresh", action="store_true", help="run bitwright again where it has finished")
    parser.add_argument("--budget", action="store_true", help="ours chooses types under the bytes of theirs")
    parser.add_argument("--effort", choices=["fast", "balanced", "best"], default="balanced", help="ours")
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--strict", nargs="+", default=["Q4_K_M"], help="presets that the limits are for")
    parser.add_argument("--kl-limit", type=float, default=0.6)
    parser.add_argument("--kl-limit-other", type=float, default=0.8)
    parser.add_argument("--plain", action="store_true", help="the weighted search alone, with times")
    parser.add_argument("--repeats", type=int, default=3, help="of both tools in turn, for --plain")
    parser.add_argument("--plain-kl", type=float, default=1.05)
    parser.add_argument("--plain-time", type=float, default=1 / 3)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def make(kind: str, arguments: argparse.Namespace, imatrix: Path) -> tuple[Run, Path]:
    """Our file and theirs."""
    tools = LlamaCpp(arguments.llama_programs, arguments.llama_source, arguments.threads)
    theirs = quantized_file(tools, arguments.model, arguments.peers_dir, imatrix, kind)
    name = f"{arguments.model.name}-{kind}-{arguments.effort}"
    flags = ["--format", "gguf", "--type", kind, "--effort", arguments.effort]
    if arguments.budget:
        name += "-budget"
        flags += ["--target-size", str(theirs.stat().st_size)]
    ours = quantize(
        arguments.model,
        arguments.work / name,
        flags,
        calibration=arguments.calibration,
        samples=arguments.samples,
        length=arguments.length,
        threads=arguments.threads,
        fresh=arguments.fresh,
    )
    return ours, theirs


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    texts = named_paths(arguments.text)
    tools = LlamaCpp(arguments.llama_programs, arguments.llama_source, arguments.threads)
    windows = cut(encode(arguments.model, arguments.calibration), arguments.samples, arguments.length)
    imatrix = imatrix_file(
        tools, arguments.model, arguments.peers_dir, arguments.calibration, arguments.samples, arguments.length
    )
    same = check_imatrix_log(imatrix.with_suffix(".log"), arguments.model, windows)
    if same["chunks_compared"] != arguments.samples:
        raise SystemExit(
            f"{imatrix} was made from {same['chunks_compared']} chunks, not {arguments.samples}; remove it"
        )
    presets: dict[str, Any] = {}
    artifacts: dict[str, Path] = {}
    for kind in arguments.types if arguments.plain else ():
        found = make_plain(kind, arguments, imatrix)
        artifacts |= {f"{kind} bitwright": found.pop("ours"), f"{kind} llama-quantize": found.pop("theirs")}
        presets[kind] = found
    for kind in () if arguments.plain else arguments.types:
        ours, theirs = make(kind, arguments, imatrix)
        if ours.calibration_sha256 != digest(windows):
            raise SystemExit(f"bitwright calibrated {kind} on other tokens than llama-imatrix")
        presets[kind] = {"files": compare_files(ours.artifact, theirs), "cost": ours.cost, "cost_theirs": cost(theirs)}
        artifacts |= {f"{kind} bitwright": ours.artifact, f"{kind} llama-quantize": theirs}

    results = judge(arguments.model, artifacts, texts, arguments.windows, arguments.length)
    for kind, found in presets.items():
        found["texts"] = compare_figures(results, kind)
    lines = acceptance(presets, arguments)
    document = {
        "model": arguments.model.name,
        "effort": "plain" if arguments.plain else arguments.effort,
        "budget": arguments.budget,
        "calibration": {"file": arguments.calibration.name, "samples": arguments.samples, "length": arguments.length},
        "calibration_sha256": digest(windows),
        "imatrix_tokens": same,
        "imatrix_cost": cost(imatrix),
        "texts": {name: {"file": file.name, "sha256": sha256(file)} for name, file in texts.items()},
        "presets": presets,
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
