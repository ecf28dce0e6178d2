"""docs/reference/doctor.md: the rules of `bitwright doctor`, and the defects that it was tried on. `--check` compares.

The defects are docs/reference/defects.json, which the slow test writes (tests/doctor/test_defects.py).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bitwright.facts.doctor_rules import doctor_rules

FOLDER = Path(__file__).parents[1] / "docs" / "reference"
PAGE, DEFECTS = FOLDER / "doctor.md", FOLDER / "defects.json"
HEAD = """# Doctor

```sh
bitwright doctor q4 --reference demo
bitwright doctor model-Q4_K_M.gguf --reference ./Llama-3.2-1B --text notes.txt --explain
```

What is wrong with an artifact: which tensor or setting, the figures that say so, how such a thing comes about, and how
it is mended. The code is 1 where something breaks the model, 0 otherwise; `--json` gives the document.

Three things are held against the original:

- **Settings**: constants that the forward pass reads, ids of special tokens, vocabulary, merges, how text is split,
  the chat template (by what it renders), groups and bits in `quantization_config` (by the shapes that are stored), and
  stored scales of an 8-bit cache (by the keys and values of the original on a few windows).
- **Every tensor**, of the decoder, and of a vision tower and projector by themselves. Rounding leaves an error that is
  small beside the largest weight nearby and points nowhere. What does not is explained by trying: rows of zeros,
  another sign or factor, a constant, rows in rotary order, other packings, scales of neighbours, other tensors of the
  original, a transposed block, lost bytes. Scales that AWQ or SmoothQuant folded into norms and projections are undone
  first.
- **Activations** on a little text, block by block (`--explain`): error of the residual stream, KL through the head, and
  channels far louder than the others.

With `--explain` it also says which matrices to keep in more bits, what that costs in bytes and what it saves in KL. A
backward pass ranks them, to second order, errors of columns taken as unrelated; the first eight are then tried: the
artifact is walked again with each of them nearer to the original, and with all that helped. What is said to be saved
was measured so on the given text, with a 95 % interval from its windows; the prediction stands beside it and is no
measure (without calibration it was up to 9 times off in Q3_K_M, and in Q2_K 0.13 nats were said of a matrix that saved
nothing; of GPTQ, whose errors cancel, it says two to three times too much). The usual 4 × 64 tokens give wide
intervals: for a decision take `--windows 16 --length 128`. On `wide` in Q3_K_M, 0.87 nats from its original:

| in 8 bits | predicted | tried, 16 × 128 tokens | quantized again and validated, the first 12 of these windows |
|---|---|---|---|
| `layers.18.self_attn.v_proj`, 96 KiB | 0.018 | 0.0202 [0.012, 0.029] | 0.0202 |
| `layers.23.self_attn.v_proj`, 96 KiB | 0.012 | 0.0056 [0.002, 0.009] | 0.0059 |
| `layers.20.self_attn.v_proj`, 96 KiB | 0.010 | 0.0077 [0.002, 0.013] | 0.0064 |

A vision-language model has three paths, and text goes through one: its tower and projector get rows of their own in the
table (`part`: tensors, how many are broken, fewest bits, the largest error and where), which is shown without
`--explain` too. A GGUF file holds the decoder alone, and a note says that the others were not looked at. Every expert
of a mixture is a tensor like any other.

What users see (gibberish, loops, wrong images, slow, out of memory) is looked up by what was found: `may show as`. What
no file shows is listed with `--explain`, each with the way to measure it; [all rows](handbook.md#trouble).

Damage of the artifact is a finding, with code 1: a file that was cut short, a shard that is not there, another
architecture. A wrong path, a damaged reference, or an artifact that is given as its own reference is code 2.

`validate` takes settings and tensors into its verdict: the gates `settings`, `weights` and `vision` appear where
they fail. A chat template that was mended on purpose fails too: it is another one.

What it cannot see: an artifact that was changed as a whole (rotated, trained further) has no tensor to compare, and
only the verdict of `validate` counts. Damage inside one group of 2-bit weights drowns in their rounding. Engines are
not asked here: a kernel that reads a sound file wrongly is found by asking it.
"""
TRIED = """
## Tried on

Each is a small edit of a sound artifact of real weights (two blocks of the demo model): what the gates of `validate`
and the first finding of `doctor` said. {passed} of {count} passed the gates, {named} of {count} were named; {sound}
sound artifacts from Q8_0 to Q4_K_M in five formats passed, and nothing was found in them.

| defect | artifact | failed by | first finding | where such a thing happened |
|---|---|---|---|---|
"""
RULES = """
## Rules

Made by `make docs` from `facts/doctor_rules.toml`.

| rule | severity | says | comes about by | fix |
|---|---|---|---|---|
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{PAGE.name} is stale: run `make docs`", file=sys.stderr)
    return 1


def page() -> str:
    tried = json.loads(DEFECTS.read_text(encoding="utf-8"))
    rows = tried["defects"]
    told = TRIED.format(
        count=len(rows), passed=sum(row["passed"] for row in rows) or "none", named=sum(row["named"] for row in rows),
        sound=tried["sound"],
    )  # fmt: skip
    told += "".join(
        f"| {row['defect']} | {row['artifact']} | {row['gate']} | {'' if row['named'] else 'missed: '}{row['rule']} at "
        f"`{row['where']}` | {row['seen']} |\n"
        for row in rows
    )
    rules = "".join(
        f"| {row.id} | {row.severity} | {_cell(row.says)} | {_cell(row.cause)} | {_cell(row.fix)} |\n"
        for row in doctor_rules().values()
    )
    return HEAD + told + RULES + rules


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
