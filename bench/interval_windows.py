"""Figures of every window of a text, for `interval_coverage.py`: what `validate` averages, kept so that simulations of
its intervals run again without a model.

Of each window the means over its scored tokens: KL, both losses, changed top tokens, squared change of probability;
and the KL of each scored token, as float16 in base64, for quantiles. The file is written after every batch, so a run
that is stopped has measured something.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitwright.evaluation.score import Scores

BATCH = 32  # windows between two writings
DIGITS = 4


def of_windows(scores: Scores) -> dict[str, NDArray[np.float64]]:
    """Each figure's mean over the scored tokens of each window."""
    measures, scored = scores.measures, scores.scored
    change = np.exp(-measures.nll_artifact) - np.exp(-measures.nll_reference)
    figures = {
        "kl": measures.kl,
        "nll_reference": measures.nll_reference,
        "nll_artifact": measures.nll_artifact,
        "flips": measures.top_reference != measures.top_artifact,
        "squares": np.square(change),
    }
    return {name: values[:, scored].mean(axis=1) for name, values in figures.items()}


def measure(
    reference: Path, artifact: Path, text: Path, length: int, windows: int, token_windows: int, out: Path
) -> None:
    """Write `out`; tokens of the first `token_windows` windows."""
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
    found: dict[str, list[float]] = {}
    of_tokens = []
    for part in torch.split(tokens, BATCH):
        scores = pair.measure(part)
        for name, values in of_windows(scores).items():
            # losses keep six digits more than figures near zero do: their difference is what is wanted
            digits = DIGITS + 3 if name.startswith("nll") else DIGITS
            found.setdefault(name, []).extend(float(f"{value:.{digits}g}") for value in values)
        of_tokens.append(scores.measures.kl[:, scores.scored].astype("<f2"))
        kept = np.concatenate(of_tokens)[:token_windows]
        head = {"reference": reference.name, "artifact": artifact.name, "text": text.name, "length": length}
        kl = {"scored_tokens": kept.shape[1], "kl_tokens": base64.b64encode(kept.tobytes()).decode()}
        out.write_text(json.dumps({**head, **found, **kl}) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--token-windows", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    measure(given.reference, given.artifact, given.text, given.length, given.windows, given.token_windows, given.out)


if __name__ == "__main__":
    main()
