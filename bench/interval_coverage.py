"""Do intervals hold what they say they hold, and how often does adding windows until a verdict err?

`measure` compares an artifact with its original on a text as `validate` does and keeps figures of every window: mean
KL, both mean losses, share of changed top tokens. `simulate` takes those windows for the whole text and draws
validations from them, 500 each, without repeating a window:

- coverage: how often the 95 % interval from a few windows holds the value of the whole text;
- decisions: windows are doubled until every gate is decided, under limits at several distances from the truth on both
  sides; an error is a verdict on the wrong side.

An interval is about text of this kind, not about these pages, so draws that take more than a tenth of the windows are
covered too often; the sizes here stay below or near that.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.records import Estimate
from bitwright.evaluation import stats
from bitwright.evaluation.sampling import doubling
from bitwright.evaluation.verdict import judge

RUNS = 500
FIELDS = ("kl", "nll_reference", "nll_artifact", "flips")
DISTANCES = (0.9, 0.95, 0.98, 1.02, 1.05, 1.1)  # limit over truth


def measure(reference: Path, artifact: Path, text: Path, length: int, windows: int, out: Path) -> None:
    """Figures of each window, written after every batch of windows."""
    import torch

    from bitwright.calibration.corpora import windows_from_files
    from bitwright.core.protocols import SILENT
    from bitwright.evaluation.pair import Pair
    from bitwright.formats.sniff import open_source
    from bitwright.modeling.walk import Walker
    from bitwright.tensors.devices import CPU

    torch.set_num_threads(1)
    tokens = windows_from_files([str(text)], reference, windows, length).tokens
    pair = Pair(
        open_source(reference), open_source(artifact), walker=Walker, devices=(CPU,), batch=8, cache=None,
        progress=SILENT,
    )  # fmt: skip
    found: dict[str, list[float]] = {name: [] for name in FIELDS}
    for part in torch.split(tokens, 64):
        scores = pair.measure(part)
        measures, scored = scores.measures, scores.scored
        found["kl"] += measures.kl[:, scored].mean(axis=1).tolist()
        found["nll_reference"] += measures.nll_reference[:, scored].mean(axis=1).tolist()
        found["nll_artifact"] += measures.nll_artifact[:, scored].mean(axis=1).tolist()
        found["flips"] += (measures.top_reference != measures.top_artifact)[:, scored].mean(axis=1).tolist()
        document = {"reference": reference.name, "artifact": artifact.name, "text": text.name, "length": length} | found
        out.write_text(json.dumps(document) + "\n", encoding="utf-8")


def estimates(values: dict[str, NDArray[np.float64]], confidence: float) -> dict[str, Estimate]:
    """What a validation of these windows says."""
    losses = values["nll_reference"], values["nll_artifact"]
    return {
        "kl_mean": stats.positive_mean(values["kl"], confidence=confidence),
        "perplexity_ratio": stats.perplexity_ratio(*losses, confidence=confidence),
        "perplexity_delta": stats.perplexity_delta(*losses, confidence=confidence),
        "top1_flips": stats.mean_interval(values["flips"], floor=0.0, ceiling=1.0, confidence=confidence),
    }


def coverage(values: dict[str, NDArray[np.float64]], windows: int, runs: int = RUNS) -> dict[str, float]:
    """How often each measure's 95 % interval from `windows` of them holds the value of all."""
    truth = estimates(values, 0.95)
    rng = np.random.default_rng(7)
    hits = dict.fromkeys(truth, 0)
    for _ in range(runs):
        chosen = rng.permutation(len(values["kl"]))[:windows]
        for name, found in estimates({key: column[chosen] for key, column in values.items()}, 0.95).items():
            hits[name] += found.low <= truth[name].value <= found.high
    return {name: count / runs for name, count in hits.items()}


def decisions(
    values: dict[str, NDArray[np.float64]], first: int, distance: float, runs: int = RUNS
) -> dict[str, float]:
    """Shares of verdicts on the right side, on the wrong side, and none, and the windows that they took, where the
    limits of KL and perplexity stand at `distance` times the truth.
    """
    truth = estimates(values, 0.95)
    limits = {name: truth[name].value * distance for name in ("kl_mean", "perplexity_delta")}
    looks = doubling(first, len(values["kl"]))
    rng = np.random.default_rng(11)
    right = "PASS" if distance > 1 else "FAIL"
    counts = {"right": 0, "wrong": 0, "undecided": 0, "windows": 0}
    for _ in range(runs):
        verdict, used = _until_decided(values, rng.permutation(len(values["kl"])), looks, limits)
        counts["undecided" if verdict == "INCONCLUSIVE" else "right" if verdict == right else "wrong"] += 1
        counts["windows"] += used
    return {name: count / runs for name, count in counts.items()}


def _until_decided(
    values: dict[str, NDArray[np.float64]], order: NDArray[np.int64], looks: tuple[int, ...], limits: dict[str, float]
) -> tuple[str, int]:
    """Every gate judged at every look until all are decided; what is decided stays."""
    decided: dict[str, str] = {}
    for look in looks:
        found = estimates({key: column[order[:look]] for key, column in values.items()}, 1 - 0.05 / len(looks))
        for name, limit in limits.items():
            if decided.get(name, "INCONCLUSIVE") == "INCONCLUSIVE":
                decided[name] = judge(found[name], limit)
        if "INCONCLUSIVE" not in decided.values():
            break
    worst = "FAIL" if "FAIL" in decided.values() else "PASS"
    return ("INCONCLUSIVE" if "INCONCLUSIVE" in decided.values() and worst != "FAIL" else worst), look


def simulate(file: Path) -> dict[str, Any]:
    """Both tables of one file of windows."""
    document = json.loads(file.read_text(encoding="utf-8"))
    values = {name: np.array(document[name]) for name in FIELDS}
    count = len(values["kl"])
    sizes = [size for size in (8, 12, 16, 24, 32) if size <= count / 6]
    return {
        "windows": count,
        "coverage": {str(size): coverage(values, size) for size in sizes},
        "decisions": {str(distance): decisions(values, 8, distance) for distance in DISTANCES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure")
    one.add_argument("reference", type=Path)
    one.add_argument("artifact", type=Path)
    one.add_argument("--text", type=Path, required=True)
    one.add_argument("--length", type=int, default=512)
    one.add_argument("--windows", type=int, default=100_000)
    one.add_argument("--out", type=Path, required=True)
    two = commands.add_parser("simulate")
    two.add_argument("files", type=Path, nargs="+")
    two.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "measure":
        measure(
            arguments.reference, arguments.artifact, arguments.text, arguments.length, arguments.windows, arguments.out
        )
        return
    found = {file.name: simulate(file) for file in arguments.files}
    arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
