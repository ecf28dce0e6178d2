"""Our measures beside those of `llama-perplexity --kl-divergence`, on the same tokens and scored positions.

llama-perplexity keeps the original's logits in 16 bits, and that alone gives the tokens of the original a KL against
itself, of either sign: its floor, measured here by giving it the original twice, is the largest of them. Its perplexity
of the original from the kept logits may be too low, as none lies more than 16 below the largest; the run of the
original against itself prints the true one. It also runs k-quants on inputs that it rounds to 8 bits, which is
another artifact than the decoded one; so it is given the artifact twice, decoded to F32 by llama-quantize and as it is.
The first is what ours must agree with, within the floor.

Tokens are read from the file that llama-perplexity wrote, so a difference of tokenizers cannot enter. Both score the
positions of the second half of a window.
"""

from __future__ import annotations

import argparse
import json
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

FIGURES = {
    "perplexity_reference": r"Mean PPL\(base\)\s*:\s*([-\d.]+)",
    "perplexity_artifact": r"Mean PPL\(Q\)\s*:\s*([-\d.]+)",
    "perplexity_ratio": r"Mean PPL\(Q\)/PPL\(base\)\s*:\s*([-\d.]+)",
    "kl_mean": r"Mean\s+KLD:\s*([-\d.]+)",
    "kl_mean_printed_error": r"Mean\s+KLD:\s*[-\d.]+ ±\s*([-\d.]+)",
    "kl_max": r"Maximum KLD:\s*([-\d.]+)",
    "kl_p999": r"99\.9%\s+KLD:\s*([-\d.]+)",
    "kl_p99": r"99\.0%\s+KLD:\s*([-\d.]+)",
    "kl_median": r"Median\s+KLD:\s*([-\d.]+)",
    "rms_probability_change": r"RMS Δp\s*:\s*([-\d.]+)",
    "top1_agreement": r"Same top p:\s*([-\d.]+)",
}
PERCENT = ("rms_probability_change", "top1_agreement")


def read_tokens(file: Path) -> tuple[int, list[int]]:
    """Window length and token ids: 8 bytes of magic, length, vocabulary and windows as int32, then the ids."""
    with file.open("rb") as handle:
        assert handle.read(8) == b"_logits_", file
        length, _, windows = struct.unpack("<3i", handle.read(12))
        return length, list(struct.unpack(f"<{length * windows}i", handle.read(4 * length * windows)))


def theirs(program: Path, model: Path, kept: Path, length: int, threads: int) -> dict[str, float]:
    """What llama-perplexity prints of one model."""
    words = [program, "-m", model, "-c", str(length), "-t", str(threads), "--kl-divergence-base", kept]
    done = subprocess.run([*map(str, words), "--kl-divergence"], capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    found = {}
    for name, pattern in FIGURES.items():
        match = re.search(pattern, said)
        assert match, f"llama-perplexity printed no {name}:\n{said[-3000:]}"
        found[name] = float(match[1]) / (100 if name in PERCENT else 1)
    return found


def ours(reference: Path, artifact: Path, tokens: list[int], length: int, threads: int) -> dict[str, float]:
    """The same figures from the code that `validate` runs."""
    import torch

    from bitwright.calibration.corpora import make_windows
    from bitwright.core.protocols import SILENT
    from bitwright.evaluation.figures import text_result
    from bitwright.evaluation.pair import Pair
    from bitwright.formats.sniff import open_source
    from bitwright.modeling.walk import Walker
    from bitwright.tensors.devices import CPU

    torch.set_num_threads(threads)
    text = make_windows("text", torch.tensor(tokens).view(-1, length))
    pair = Pair(
        open_source(reference), open_source(artifact), walker=Walker, devices=(CPU,), batch=4, cache=None,
        progress=SILENT,
    )  # fmt: skip
    result = text_result(text, pair.measure(text.tokens))
    assert result is not None
    assert result.perplexity_ratio is not None
    assert result.rms_probability_change is not None
    return {
        "perplexity_reference": result.perplexity_reference.value,
        "perplexity_artifact": result.perplexity_artifact.value,
        "perplexity_ratio": result.perplexity_ratio.value,
        "kl_mean": result.kl_mean.value,
        "kl_mean_error": (result.kl_mean.high - result.kl_mean.low) / 2,
        "kl_max": result.kl_max,
        "kl_p999": result.kl_quantiles[3].kl.value,
        "kl_p99": result.kl_p99,
        "kl_median": result.kl_median,
        "rms_probability_change": result.rms_probability_change.value,
        "top1_agreement": result.top1_agreement.value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reference", type=Path, help="folder of the original")
    parser.add_argument("artifact", type=Path, help="a GGUF file")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--programs", type=Path, required=True, help="folder of llama-perplexity and llama-quantize")
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path(__file__).parent / "work" / "versus_llama_perplexity")
    parser.add_argument("--json", type=Path, required=True)
    arguments = parser.parse_args()
    work, threads, length = arguments.work, arguments.threads, arguments.length
    work.mkdir(parents=True, exist_ok=True)
    original, decoded, kept = work / "original", work / "decoded.gguf", work / "kept.kld"
    if not original.exists():
        from bitwright import api

        api.quantize(api.plan(arguments.reference, type="F32", format="gguf"), original)
    base = next(original.glob("*.gguf"))
    quantize = [arguments.programs / "llama-quantize", "--allow-requantize", arguments.artifact, decoded, "F32"]
    subprocess.run([*map(str, quantize), str(threads)], check=True, capture_output=True)
    program = arguments.programs / "llama-perplexity"
    words = [program, "-m", base, "-f", arguments.text, "-c", str(length), "--chunks", str(arguments.windows)]
    words += ["-t", str(threads), "--kl-divergence-base", kept]
    subprocess.run([*map(str, words)], check=True, capture_output=True)
    length, tokens = read_tokens(kept)
    document: dict[str, Any] = {
        "reference": arguments.reference.name, "artifact": arguments.artifact.name, "text": arguments.text.name,
        "windows": len(tokens) // length, "length": length,
        "llama_perplexity_original_against_itself": theirs(program, base, kept, length, threads),
        "llama_perplexity_decoded": theirs(program, decoded, kept, length, threads),
        "llama_perplexity_as_it_is": theirs(program, arguments.artifact, kept, length, threads),
        "bitwright": ours(arguments.reference, arguments.artifact, tokens, length, threads),
    }  # fmt: skip
    kept.unlink()
    floor = document["llama_perplexity_original_against_itself"]["kl_max"]
    away = document["bitwright"]["kl_mean"] - document["llama_perplexity_decoded"]["kl_mean"]
    document["kl_mean_difference"], document["kl_mean_floor"] = away, floor
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document, indent=1))
    if abs(away) > floor:
        sys.exit(f"mean KL differs by {away:.6f} nats, more than the floor of {floor:.6f}")


if __name__ == "__main__":
    main()
