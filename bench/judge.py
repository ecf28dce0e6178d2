"""How far is an artifact from its reference? One judge for every tool's files.

Nothing of bitwright is imported: `artifacts.py` decodes by foreign libraries and by the formats' own formulas, and
rounds inputs where the format says that engines do. Then everything runs through one forward pass, in float32 on the
CPU.

Protocol: the reference's tokenizer, no special token added; windows of `--length` tokens back to back from the start
of the text; the tokens in the second half of each window are scored, so every score has at least length/2 tokens of
context. KL is D(reference || artifact) in nats per scored token, from float64 log-softmax. Standard errors are
clustered: a window is one observation. Reference logits are computed once and kept: windows * length/2 * vocabulary
* 4 bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import log_softmax
from transformers import AutoTokenizer, PreTrainedModel

from artifacts import load

# Rows of logits compared at a time: float64 copies of a whole window would be written to memory many times over.
ROWS = 32


@dataclass
class Scores:
    """Per-token values of one artifact on one text, window by window."""

    kl: list[torch.Tensor] = field(default_factory=list)
    reference_loss: list[torch.Tensor] = field(default_factory=list)
    loss: list[torch.Tensor] = field(default_factory=list)
    agree: list[torch.Tensor] = field(default_factory=list)


def cut_windows(reference: Path, text_file: Path, windows: int, length: int) -> torch.Tensor:
    """[windows, length] token ids; fewer windows when the text is shorter, two at least."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    text = text_file.read_text(encoding="utf-8")
    encoded = tokenizer(text, add_special_tokens=False, verbose=False, return_tensors="pt")
    ids: torch.Tensor = encoded["input_ids"][0]
    count = min(windows, len(ids) // length)
    if count < 2:
        raise SystemExit(f"{text_file}: {len(ids)} tokens do not make two windows of {length}")
    return ids[: count * length].reshape(count, length)


def scored_logits(model: PreTrainedModel, window: torch.Tensor) -> torch.Tensor:
    """[length - length//2, vocabulary] logits that predict the second half of the window."""
    first = len(window) // 2
    with torch.inference_mode():
        output = model(window[None], use_cache=False, logits_to_keep=len(window) - first + 1)
    logits: torch.Tensor = output.logits[0, :-1]
    return logits


def score(model: PreTrainedModel, windows: torch.Tensor, reference_logits: list[torch.Tensor]) -> Scores:
    """Every scored token of every window against the reference."""
    scores = Scores()
    for window, reference in zip(windows, reference_logits, strict=True):
        targets = window[len(window) // 2 :, None]
        logits = scored_logits(model, window)
        rows = zip(*(torch.split(whole, ROWS) for whole in (reference, logits, targets)), strict=True)
        parts = list(zip(*(compare(*row) for row in rows), strict=True))
        kept = (scores.kl, scores.reference_loss, scores.loss, scores.agree)
        for values, part in zip(kept, parts, strict=True):
            values.append(torch.cat(part))
    return scores


def compare(reference: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """KL, both losses and whether the first choice agrees, for rows of logits; float64."""
    log_p, log_q = log_softmax(reference.double(), dim=-1), log_softmax(logits.double(), dim=-1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    agree = (log_p.argmax(-1) == log_q.argmax(-1)).double()
    return kl, -log_p.gather(1, targets)[:, 0], -log_q.gather(1, targets)[:, 0], agree


def clustered_error(per_window: list[float]) -> float:
    """Standard error of a mean over windows, a window being one observation."""
    return statistics.stdev(per_window) / math.sqrt(len(per_window))


def summarize(scores: Scores) -> dict[str, Any]:
    """What goes into the JSON: figures, their clustered errors, and the window means for paired comparisons."""
    kl = torch.cat(scores.kl)
    kl_windows = [window.mean().item() for window in scores.kl]
    agree_windows = [window.mean().item() for window in scores.agree]
    reference_windows = [window.mean().item() for window in scores.reference_loss]
    loss_windows = [window.mean().item() for window in scores.loss]
    change = [ours - theirs for ours, theirs in zip(loss_windows, reference_windows, strict=True)]
    return {
        "scored_tokens": len(kl),
        "kl_mean": kl.mean().item(),
        "kl_mean_error": clustered_error(kl_windows),
        "kl_median": kl.median().item(),
        "kl_p99": kl.quantile(0.99).item(),
        "kl_max": kl.max().item(),
        "top1_agreement": statistics.fmean(agree_windows),
        "top1_agreement_error": clustered_error(agree_windows),
        "reference_perplexity": math.exp(statistics.fmean(reference_windows)),
        "perplexity": math.exp(statistics.fmean(loss_windows)),
        "loss_change": statistics.fmean(change),
        "loss_change_error": clustered_error(change),
        "kl_windows": kl_windows,
    }


def ratio_with_error(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Ratio of two means over the same windows, and its leave-one-window-out jackknife standard error."""
    count, total, other = len(ours), sum(ours), sum(theirs)
    left_out = [(total - a) / (other - b) for a, b in zip(ours, theirs, strict=True)]
    centre = statistics.fmean(left_out)
    return total / other, math.sqrt((count - 1) / count * sum((value - centre) ** 2 for value in left_out))


def artifact_bytes(path: Path) -> int:
    """Size of a GGUF file, or of the safetensors files of a folder."""
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.glob("*.safetensors"))


def judge(
    reference: Path, artifacts: dict[str, Path], texts: dict[str, Path], windows: int, length: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Figures by text and artifact name. Each artifact is loaded once; two models are in memory at a time."""
    reference_model = load(reference)
    cut = {name: cut_windows(reference, file, windows, length) for name, file in texts.items()}
    logits = {name: [scored_logits(reference_model, window) for window in ids] for name, ids in cut.items()}
    results: dict[str, dict[str, dict[str, Any]]] = {name: {} for name in texts}
    for artifact_name, path in artifacts.items():
        start = time.perf_counter()
        model = load(path)
        for text_name, ids in cut.items():
            figures = summarize(score(model, ids, logits[text_name]))
            results[text_name][artifact_name] = {"bytes": artifact_bytes(path), "windows": len(ids)} | figures
            print(
                f"{artifact_name:>28} on {text_name}: KL {figures['kl_mean']:.5f} ± {figures['kl_mean_error']:.5f}, "
                f"ppl {figures['perplexity']:.3f} / {figures['reference_perplexity']:.3f}, "
                f"top-1 {figures['top1_agreement']:.2%} ({time.perf_counter() - start:.0f} s)",
                file=sys.stderr,
                flush=True,
            )
    return results


def named_paths(values: list[str]) -> dict[str, Path]:
    """`NAME=PATH` or `PATH` (named by its last part) to a dictionary."""
    result: dict[str, Path] = {}
    for value in values:
        name, _, path = value.rpartition("=")
        if not Path(path).exists():
            raise SystemExit(f"{path} does not exist")
        if (name or Path(path).name) in result:
            raise SystemExit(f"two paths are named {name or Path(path).name}; write NAME=PATH")
        result[name or Path(path).name] = Path(path)
    return result


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="folder of the unquantized model")
    parser.add_argument("artifacts", nargs="+", metavar="[NAME=]ARTIFACT")
    parser.add_argument("--text", action="append", required=True, metavar="[NAME=]FILE")
    parser.add_argument("--windows", type=int, default=16)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    texts = named_paths(arguments.text)
    artifacts = named_paths(arguments.artifacts)
    results = judge(arguments.reference, artifacts, texts, arguments.windows, arguments.length)
    document = {
        "reference": arguments.reference.name,
        "protocol": {"windows_at_most": arguments.windows, "length": arguments.length, "scored": "second half"},
        "texts": {name: {"file": file.name, "sha256": sha256(file)} for name, file in texts.items()},
        "versions": {"torch": torch.__version__},
        "results": results,
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
