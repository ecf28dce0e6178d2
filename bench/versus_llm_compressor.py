"""bitwright against llm-compressor: GPTQ, W4A16, groups of 128, symmetric, same calibration tokens.

llm-compressor runs in an environment of its own, by the interpreter that --peer-python names. Both are run and timed as
whole processes, imports included, one after the other with the same number of threads. With --reuse finished artifacts
are judged again and no time is accepted, because seconds of different runs do not compare.

Three things are accepted or not: KL at most --kl-limit times the peer's on the first text, wall time at most
--time-limit times the peer's, and the logits of our artifact loaded by transformers + compressed-tensors within 1e-3
(relative, norm of the difference) of those of our own decode. transformers is asked in both its ways, in float32: as
it does by itself, weights kept packed until the first forward pass and scales widened to float32, which is the one
accepted; and with `dequantize=True`, which multiplies in the stored type of the scales, bfloat16, and so adds a
rounding of its own (0.4 % of the logits). Exit code 1 when a line fails.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils.quantization_config import CompressedTensorsConfig

from judge import cut_windows, judge, named_paths, ratio_with_error, sha256
from ours import digest, quantize
from process import run
from tokens import cut, encode

LOGIT_TOLERANCE = 1e-3
CHECKED_WINDOWS = 2


def peer_artifact(arguments: argparse.Namespace, windows: list[list[int]]) -> tuple[Path, dict[str, Any] | None]:
    """llm-compressor's artifact, and what it cost."""
    suffix = "" if arguments.peer_dtype == "auto" else f"-{arguments.peer_dtype}"
    out: Path = arguments.peers_dir / f"{arguments.model.name}-gptq{suffix}"
    tokens_file = arguments.peers_dir / f"tokens-{arguments.samples}x{arguments.length}.json"
    report, cost_file = out.with_suffix(".json"), out.with_suffix(".cost.json")
    if not arguments.reuse or not (out / "config.json").exists():
        shutil.rmtree(out, ignore_errors=True)
        arguments.peers_dir.mkdir(parents=True, exist_ok=True)
        tokens_file.write_text(json.dumps({"windows": windows}), encoding="utf-8")
        script = Path(__file__).parent / "peers" / "llm_compressor.py"
        words = [
            arguments.model,
            "--tokens",
            tokens_file,
            "--out",
            out,
            "--json",
            report,
            "--dtype",
            arguments.peer_dtype,
            "--threads",
            arguments.threads,
        ]
        command = [arguments.peer_python, script, *words]
        limits = {"OMP_NUM_THREADS": str(arguments.threads)}
        measured = run([str(word) for word in command], log=out.with_suffix(".log"), environment=limits)
        cost_file.write_text(json.dumps(measured.document()) + "\n", encoding="utf-8")
    elif json.loads(tokens_file.read_text(encoding="utf-8"))["windows"] != windows:
        raise SystemExit(f"{out} was calibrated on other tokens; run without --reuse")
    cost: dict[str, Any] | None = json.loads(cost_file.read_text()) if cost_file.exists() else None
    if report.exists():
        cost = (cost or {}) | {"inside": json.loads(report.read_text(encoding="utf-8"))}
    return out, cost


def decoded_by_bitwright(folder: Path) -> PreTrainedModel:
    """A float32 model with the weights as bitwright's own reader gives them."""
    from bitwright.formats.compressed.reader import CompressedTensorsSource

    source = CompressedTensorsSource(folder)
    config = AutoConfig.from_pretrained(folder)
    del config.quantization_config
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {name: source.load(name).float() for name in source.names()}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise SystemExit(f"{folder}: missing {missing}, unexpected {unexpected}")
    if missing:
        model.tie_weights()
    return model.eval()


def loaded_by_transformers(folder: Path, *, dequantize: bool) -> PreTrainedModel:
    """The artifact as transformers loads it, in float32."""
    settings = CompressedTensorsConfig(dequantize=dequantize)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=settings)
    return model.eval()


def compare_loaders(folder: Path, windows: torch.Tensor) -> dict[str, dict[str, float]]:
    """Relative differences of transformers' logits from those of our decode, for both of its ways to load."""
    mine = decoded_by_bitwright(folder)
    differences = {}
    with torch.inference_mode():
        expected = [mine(window[None]).logits[0] for window in windows]
        for way, dequantize in (("dequantized", True), ("packed", False)):
            theirs = loaded_by_transformers(folder, dequantize=dequantize)
            found = [theirs(window[None]).logits[0] for window in windows]
            a, b = torch.cat(found), torch.cat(expected)
            differences[way] = {
                "norm": ((a - b).norm() / b.norm()).item(),
                "largest": ((a - b).abs().max() / b.abs().max()).item(),
            }
    return differences


def time_ratio(ours: dict[str, float | int] | None, theirs: dict[str, Any] | None) -> float:
    """Wall seconds of the whole processes, ours by theirs."""
    if ours is None or theirs is None:
        raise SystemExit("bitwright went on with an unfinished run, so its time is not known: remove it and run again")
    return float(ours["seconds"] / theirs["seconds"])


def acceptance(document: dict[str, Any], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One line for every condition, with the figure and whether it holds."""
    main_text = next(iter(document["texts"]))
    found = [
        (f"KL ÷ peer's on {main_text}", document["texts"][main_text]["kl_ratio"], arguments.kl_limit),
        ("bytes ÷ peer's", document["bytes_ratio"], 1.001),
        ("logits by transformers against ours, relative", document["loaders"]["packed"]["norm"], LOGIT_TOLERANCE),
    ]
    if document["time_ratio"] is not None:
        found.append(("wall time ÷ peer's", document["time_ratio"], arguments.time_limit))
    return [{"what": what, "value": value, "limit": limit, "holds": value <= limit} for what, value, limit in found]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--peer-python", type=Path, required=True, help="interpreter with llm-compressor")
    parser.add_argument("--calibration", type=Path, required=True, help="text file")
    parser.add_argument(
        "--text", action="append", required=True, metavar="[NAME=]FILE", help="the first is the main one"
    )
    parser.add_argument("--peers-dir", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument(
        "--peer-dtype",
        choices=["auto", "float32"],
        default="auto",
        help="dtype in which llm-compressor loads and runs the model; bitwright always computes in float32",
    )
    parser.add_argument("--reuse", action="store_true", help="judge finished artifacts; times are not accepted then")
    parser.add_argument("--effort", choices=["fast", "balanced", "best"], default="balanced", help="ours")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kl-limit", type=float, default=0.6)
    parser.add_argument("--time-limit", type=float, default=0.5)
    parser.add_argument("--json", type=Path, required=True)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    texts = named_paths(arguments.text)
    windows = cut(encode(arguments.model, arguments.calibration), arguments.samples, arguments.length)
    ours = quantize(
        arguments.model,
        arguments.work / f"{arguments.model.name}-w4a16-{arguments.effort}",
        ["--format", "compressed-tensors", "--bits", "4", "--group-size", "128", "--effort", arguments.effort],
        calibration=arguments.calibration,
        samples=arguments.samples,
        length=arguments.length,
        threads=arguments.threads,
        fresh=not arguments.reuse,
    )
    if ours.calibration_sha256 != digest(windows):
        raise SystemExit("bitwright calibrated on other tokens than llm-compressor")
    theirs, cost_theirs = peer_artifact(arguments, windows)

    artifacts = {"bitwright": ours.artifact, "llm-compressor": theirs}
    results = judge(arguments.model, artifacts, texts, arguments.windows, arguments.length)
    compared: dict[str, Any] = {}
    for name, figures in results.items():
        ratio, error = ratio_with_error(figures["bitwright"]["kl_windows"], figures["llm-compressor"]["kl_windows"])
        compared[name] = {"kl_ratio": ratio, "kl_ratio_error": error} | figures
    main_figures = next(iter(results.values()))
    checked = cut_windows(arguments.model, next(iter(texts.values())), CHECKED_WINDOWS, arguments.length)
    document: dict[str, Any] = {
        "model": arguments.model.name,
        "effort": arguments.effort,
        "calibration": {"file": arguments.calibration.name, "samples": arguments.samples, "length": arguments.length},
        "calibration_sha256": digest(windows),
        "text_files": {name: {"file": file.name, "sha256": sha256(file)} for name, file in texts.items()},
        "threads": arguments.threads,
        "peer_dtype": arguments.peer_dtype,
        "cost": ours.cost,
        "cost_theirs": cost_theirs,
        "time_ratio": None if arguments.reuse else time_ratio(ours.cost, cost_theirs),
        "bytes_ratio": main_figures["bitwright"]["bytes"] / main_figures["llm-compressor"]["bytes"],
        "loaders": compare_loaders(ours.artifact, checked),
        "texts": compared,
    }
    document["acceptance"] = lines = acceptance(document, arguments)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    for entry in lines:
        verdict = "holds" if entry["holds"] else "FAILS"
        print(f"{verdict}  {entry['what']}: {entry['value']:.4g} (limit {entry['limit']:.4g})")
    sys.exit(0 if all(entry["holds"] for entry in lines) else 1)


if __name__ == "__main__":
    main()
