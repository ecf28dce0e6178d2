"""docs/reference/cells.md: the table of cells, and what the record beside the page says of each. `--check` compares.

`make cells` runs the cells (tests/cells/test_cells.py), which writes the record, and then this. A row that is new in
the table is on the page after `make docs`, as not recorded.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # where the table is

from cells.record import Result, read  # noqa: E402
from cells.table import ALL, ROWS, Row, Use, cells  # noqa: E402

PAGE = ROOT / "docs" / "reference" / "cells.md"
Key = tuple[str, str, str, str]
HEAD = """# Methods × formats × loaders

Made by `make cells` from `docs/reference/cells.json`, which the same command measures anew: every type of every format
is written by every method that it allows, from the first blocks of a real model (`tests/cells/model.py`; rows of
vision-language models from random ones), loaded by a program that is not ours, and the loader's logits are compared
with those of our own decode. The table of cells is `tests/cells/table.py`; the test, `tests/cells/test_cells.py`, holds
every number below its limit.

- A number is the root mean square distance of log-probabilities, as a share of their spread: 0 is equality, 1.4 is what
  unrelated logits have. In brackets: how far quantization itself moved the logits. Types that round inputs differ a
  little from loader to loader, because a value near the middle of two codes goes the other way.
- *no* with a number: the loader refuses the file; its words stand below the table.
- — : there is no such cell. `bitwright plan` refuses SmoothQuant where engines leave inputs alone, and any method but
  `rtn` where values are cast or the rounding is bitsandbytes' own. vLLM is asked about one method, or two where inputs
  are rounded: its files do not differ by method.
- Integers meet every method and every grouping (32, 128, channel), not every pair: they go round together.
- llama.cpp rounds the inputs of quantized products to 8 bits and gives the logits of one position, the others those of
  all, vLLM those of four generated tokens.
- GPTQModel and vLLM live in an environment of their own (`make loaders`). Which kernels vLLM has depends on the
  processor: what it refuses here it may serve on a GPU, and its 4-bit cells need AVX-512.
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    page = render()
    if "--check" not in arguments:
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print(f"{PAGE.name} is stale: run `make docs`", file=sys.stderr)
    return 1


def render() -> str:
    """A section per format, a line per type and loader."""
    found = {result.key: result for result in read()}
    parts = [HEAD, _counts(found), _versions(found.values())]
    for format, rows in itertools.groupby(ROWS, key=lambda row: row.format):
        parts.append(_section(format, list(rows), found))
    return "\n".join(parts)


def _counts(found: dict[Key, Result]) -> str:
    every = [cell.key for cell in cells()]
    written = len({key[:3] for key in every})
    refused = sum(bool(found[key].refused) for key in every if key in found)
    agree = sum(key in found for key in every) - refused
    return (
        f"{len(ROWS)} types, {written} artifacts, {len(every)} cells: {agree} agree, {refused} are refused, "
        f"{len(every) - agree - refused} are not recorded yet.\n"
    )


def _versions(results: Iterable[Result]) -> str:
    found: dict[str, set[str]] = {}
    for result in results:
        found.setdefault(result.loader, set()).update(result.version.split(", "))
    rows = [f"| {loader} | {', '.join(sorted(versions))} |" for loader, versions in sorted(found.items())]
    return "\n".join(["| loader | version |", "|---|---|", *rows, ""])


def _section(format: str, rows: list[Row], found: dict[Key, Result]) -> str:
    methods = [method for method in ALL if any(method in row.methods for row in rows)]
    notes: dict[str, int] = {}
    lines = [f"| type | loader | {' | '.join(methods)} |", f"|---|---|{'---|' * len(methods)}"]
    for row in rows:
        for use in row.uses:
            words = [_cell(row, use, method, found, notes) for method in methods]
            lines.append(f"| `{row.type}` | {use.loader} | {' | '.join(words)} |")
    noted = [f"{number}. {words}" for words, number in notes.items()]
    return "\n".join([f"## {format}", "", *lines, "", *noted, *([""] if noted else [])])


def _cell(row: Row, use: Use, method: str, found: dict[Key, Result], notes: dict[str, int]) -> str:
    if method not in row.methods or method not in use.methods:
        return "—"
    result = found.get((row.format, row.type, method, use.loader))
    if result is None:
        return "not recorded"
    if result.distance is None or result.moved is None:
        return f"*no* {notes.setdefault(_code(result.refused), len(notes) + 1)}"
    return f"{_number(result.distance)} ({_number(result.moved)})"


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}".replace("e-0", "e-") if value < 0.001 else f"{value:.3f}"


def _code(refusal: str) -> str:
    return f"`{refusal.replace('`', chr(39)).replace('|', '/').strip()}`"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
