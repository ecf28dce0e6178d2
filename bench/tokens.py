"""The calibration windows, as token ids in JSON, so that every tool sees the same stream.

Windows are cut back to back from the start of the text: window i holds tokens [i * length, (i + 1) * length). No
special token is added. `llama-imatrix -c LENGTH --chunks N` cuts its text in the same way, so its chunk i is window i,
under two conditions. Its tokenizer must give the same ids, and the vocabulary must not ask for a BOS token: with
`tokenizer.ggml.add_bos_token` true, llama-imatrix overwrites the first token of each chunk with BOS
(tools/imatrix/imatrix.cpp, `compute_imatrix`). `--imatrix-log` proves both at once: the perplexities that llama-imatrix
printed after each chunk are compared with those of the reference model in float32 on these windows.

Scored by llama-imatrix: the targets at positions length/2 + 1 ... length - 1 of every chunk.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

# F16 weights and activations rounded to 8 bit or F16 inside llama.cpp's products, against float32 here.
PERPLEXITY_TOLERANCE = 5e-3


def encode(tokenizer_folder: Path, text_file: Path) -> list[int]:
    """Token ids of the whole text, no special token added."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    text = text_file.read_text(encoding="utf-8")
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def cut(ids: list[int], windows: int, length: int) -> list[list[int]]:
    """The first `windows` windows of `length` tokens, back to back."""
    if len(ids) < windows * length:
        raise SystemExit(f"the text holds {len(ids)} tokens; {windows} x {length} = {windows * length} are needed")
    return [ids[start : start + length] for start in range(0, windows * length, length)]


def running_perplexities(model_folder: Path, windows: list[list[int]]) -> list[float]:
    """Perplexity after each window over all windows so far, scored as llama-imatrix scores them."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    loss, count, result = 0.0, 0, []
    for window in windows:
        ids = torch.tensor([window])
        first = len(window) // 2
        with torch.inference_mode():
            logits = model(ids).logits[0, first:-1]
        loss += torch.nn.functional.cross_entropy(logits, ids[0, first + 1 :], reduction="sum").item()
        count += len(window) - 1 - first
        result.append(math.exp(loss / count))
    return result


def check_imatrix_log(log: Path, model_folder: Path, windows: list[list[int]]) -> dict[str, float | int]:
    """Largest relative difference between llama-imatrix's perplexities and ours; stops the script above tolerance."""
    theirs = [float(value) for _, value in re.findall(r"\[(\d+)\]([0-9.]+),", log.read_text(errors="replace"))]
    if not theirs:
        raise SystemExit(f"{log} holds no perplexity of llama-imatrix")
    ours = running_perplexities(model_folder, windows[: len(theirs)])
    worst = max(abs(a - b) / b for a, b in zip(theirs, ours, strict=False))
    if worst > PERPLEXITY_TOLERANCE:
        raise SystemExit(f"llama-imatrix saw other tokens: perplexities differ by {worst:.2%} (allowed 0.5 %)")
    return {"chunks_compared": len(ours), "largest_relative_difference": worst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder with the tokenizer (and the weights, for --imatrix-log)")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--json", type=Path, required=True, help="where the windows go")
    parser.add_argument("--imatrix-log", type=Path, help="output of llama-imatrix to check against")
    arguments = parser.parse_args()

    windows = cut(encode(arguments.model, arguments.text), arguments.windows, arguments.length)
    document: dict[str, object] = {
        "text": arguments.text.name,
        "text_sha256": hashlib.sha256(arguments.text.read_bytes()).hexdigest(),
        "windows": windows,
    }
    if arguments.imatrix_log is not None:
        document["imatrix_check"] = check_imatrix_log(arguments.imatrix_log, arguments.model, windows)
        print(document["imatrix_check"], file=sys.stderr)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(document), encoding="utf-8")


if __name__ == "__main__":
    main()
