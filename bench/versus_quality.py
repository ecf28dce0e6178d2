"""bitwright's quality beside every peer that runs on a processor: same calibration tokens, same judge, no timing.

A cell is a scheme. Each artifact is made once, by the commands in `COMMANDS`, and kept; each figure is judged once, and
kept in the results, so that a run that was stopped goes on where it was. `--reuse` makes nothing: it judges what is
finished and names what is missing.

    w4a16    4-bit weights, symmetric groups: efforts best and balanced; llm-compressor, AutoRound, GPTQModel
    w8a8     8-bit weights and inputs: llm-compressor's SmoothQuant and GPTQ
    fp8      E4M3 weights and inputs: llm-compressor's FP8_DYNAMIC

AutoRound takes 200 steps a block, hours for a whole model on a processor. `--blocks N` therefore compares the first N
decoder blocks alone: a copy of the model that ends there is quantized, which changes nothing for methods that go block
by block, and all artifacts are judged with their N blocks in the original. Effort best takes gradients, and so sees the
whole model.

A line holds when the ratio of KL stays under its limit on the first text, and under 1 (FP8: 1.05) on the others, where
an advantage may shrink but must not turn. Exit code 1 when a line fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from artifacts import first_blocks, load, shortened
from judge import artifact_bytes, cut_windows, named_paths, ratio_with_error, score, scored_logits, sha256, summarize
from ours import digest, quantize
from process import run
from quality_cells import CELLS, COMMANDS, OURS, names_of
from tokens import cut, encode

Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Made:
    """A finished artifact, and what its maker reported (nothing for ours, whose record is `quant.json`)."""

    path: Path
    report: dict[str, Any]


def ours(name: str, arguments: argparse.Namespace, windows: list[list[int]]) -> Made | None:
    """Our artifact; `None` when it may not be made."""
    whole = arguments.blocks is None or "best" in COMMANDS[name].flags
    model = arguments.model if whole else shortened(arguments.model, arguments.peers_dir, arguments.blocks)
    out = arguments.work / f"{model.name}-{name}"
    if arguments.reuse and not (out / "quant.json").exists():
        return None
    made = quantize(
        model,
        out,
        flags_of(name, arguments),
        calibration=arguments.calibration,
        samples=arguments.samples,
        length=arguments.length,
        threads=arguments.threads,
        fresh=False,
    )
    if made.calibration_sha256 != digest(windows):
        raise SystemExit(f"{out} was calibrated on other tokens than the peers")
    return Made(made.artifact, {})


def theirs(name: str, arguments: argparse.Namespace, windows: list[list[int]]) -> Made | None:
    """A peer's artifact; `None` when it may not be made, or its interpreter was not given."""
    tool, folder = COMMANDS[name].tool, arguments.peers_dir
    model = arguments.model if arguments.blocks is None else shortened(arguments.model, folder, arguments.blocks)
    out = folder / f"{model.name}-{name}"
    report, python = out.with_name(out.name + ".json"), getattr(arguments, tool)
    if not report.exists():
        if arguments.reuse or python is None:
            return None
        shutil.rmtree(out, ignore_errors=True)
        tokens = folder / f"tokens-{arguments.samples}x{arguments.length}.json"
        tokens.write_text(json.dumps({"windows": windows}), encoding="utf-8")
        words = ["--tokens", tokens, "--out", out, "--json", report, *flags_of(name, arguments)]
        script = Path(__file__).parent / "peers" / f"{tool}.py"
        call = [python, script, model, *words, "--threads", arguments.threads]
        limits = {"OMP_NUM_THREADS": str(arguments.threads)}
        run([str(word) for word in call], log=out.with_name(out.name + ".log"), environment=limits)
    # AutoRound writes into a folder of its own naming below the one that it is given.
    found = next(path.parent for path in sorted(out.rglob("config.json")))
    return Made(found, json.loads(report.read_text(encoding="utf-8")))


def flags_of(name: str, arguments: argparse.Namespace) -> list[str]:
    return [str(arguments.group_size) if flag == "GROUP" else flag for flag in COMMANDS[name].flags]


class Judge:
    """Figures of artifacts on the texts. Logits of the original are computed when they are first needed."""

    def __init__(self, arguments: argparse.Namespace, texts: dict[str, Path]) -> None:
        self.arguments, self.texts = arguments, texts
        self.original = load(arguments.model)
        cuts = {
            name: cut_windows(arguments.model, file, arguments.windows, arguments.length)
            for name, file in texts.items()
        }
        self.windows, self.logits = cuts, dict[str, list[torch.Tensor]]()

    def figures(self, path: Path) -> Figures:
        """By text."""
        model = load(path)
        if self.arguments.blocks is not None:
            model = first_blocks(model, self.original, self.arguments.blocks)
        found: Figures = {}
        for text, ids in self.windows.items():
            if text not in self.logits:
                self.logits[text] = [scored_logits(self.original, window) for window in ids]
            found[text] = {"bytes": artifact_bytes(path)} | summarize(score(model, ids, self.logits[text]))
            print(f"{path.name:>28} on {text}: KL {found[text]['kl_mean']:.5f}", file=sys.stderr, flush=True)
        return found


def compare(figures: dict[str, Figures], cells: list[str], texts: dict[str, Path]) -> list[dict[str, Any]]:
    """Every line on every text, against the best peer that has figures."""
    found = []
    for line in (line for cell in cells for line in CELLS[cell]):
        present = [peer for peer in line.peers if peer in figures]
        if line.ours not in figures or not present:
            continue
        for index, text in enumerate(texts):
            best = min(present, key=lambda peer: figures[peer][text]["kl_mean"])
            windows = [figures[name][text]["kl_windows"] for name in (line.ours, best)]
            ratio, error = ratio_with_error(*windows)
            limit = line.limit if index == 0 else line.other
            what = {"ours": line.ours, "peer": best, "of": present, "text": text}
            found.append({**what, "ratio": ratio, "error": error, "limit": limit, "holds": ratio <= limit})
    return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--cells", nargs="+", choices=list(CELLS), default=list(CELLS))
    parser.add_argument("--llm-compressor", type=Path, metavar="PYTHON", help="interpreter with llm-compressor")
    parser.add_argument("--auto-round-signround", type=Path, metavar="PYTHON", help="interpreter with AutoRound")
    parser.add_argument("--gptqmodel-gptq", type=Path, metavar="PYTHON", help="interpreter with GPTQModel")
    parser.add_argument("--calibration", type=Path, required=True, help="text file")
    parser.add_argument(
        "--text", action="append", required=True, metavar="[NAME=]FILE", help="the first is the main one"
    )
    parser.add_argument("--peers-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--reuse", action="store_true", help="judge what is finished, make nothing")
    parser.add_argument("--group-size", type=int, default=128)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument(
        "--blocks", type=int, help="judge this many of the first blocks, the others being the original's"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    texts = named_paths(arguments.text)
    windows = cut(encode(arguments.model, arguments.calibration), arguments.samples, arguments.length)
    protocol = {
        "model": arguments.model.name,
        "calibration_sha256": digest(windows),
        "samples": arguments.samples,
        "group_size": arguments.group_size,
        "windows": arguments.windows,
        "length": arguments.length,
        "blocks": arguments.blocks,
        "text_files": {name: {"file": file.name, "sha256": sha256(file)} for name, file in texts.items()},
    }
    document: dict[str, Any] = {"protocol": protocol, "figures": {}, "made_by": {}, "missing": []}
    if arguments.json.exists():
        earlier = json.loads(arguments.json.read_text(encoding="utf-8"))
        if earlier["protocol"] != protocol:
            raise SystemExit(f"{arguments.json} holds figures of another protocol; write to another file")
        document |= earlier
    judge: Judge | None = None
    names = names_of(arguments.cells)
    for name in names:
        if name in document["figures"]:
            continue
        made = (ours if COMMANDS[name].tool == OURS else theirs)(name, arguments, windows)
        if made is None:
            continue
        judge = judge or Judge(arguments, texts)
        document["figures"][name] = judge.figures(made.path)
        document["made_by"][name] = made.report
        save(document, names, arguments, texts)
    save(document, names, arguments, texts)
    for entry in document["lines"]:
        verdict = "holds" if entry["holds"] else "FAILS"
        print(f"{verdict}  {entry['ours']} / {entry['peer']} on {entry['text']}: ", end="")
        print(f"{entry['ratio']:.3f} ± {entry['error']:.3f} (limit {entry['limit']})")
    print("missing:", ", ".join(document["missing"]) or "nothing")
    sys.exit(0 if all(entry["holds"] for entry in document["lines"]) else 1)


def save(document: dict[str, Any], names: list[str], arguments: argparse.Namespace, texts: dict[str, Path]) -> None:
    document["missing"] = [name for name in names if name not in document["figures"]]
    document["lines"] = compare(document["figures"], list(CELLS), texts)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
