"""docs/reference/facts.md: what plans are made from, out of the same rows as `bitwright facts`. `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

from bitwright.cli.fact_tables import (
    FactTable,
    device_table,
    engine_table,
    gone_table,
    method_table,
    model_table,
    type_table,
    workload_table,
)
from bitwright.facts.catalogue import catalogue
from bitwright.facts.device_rows import hardware_rows
from bitwright.facts.sheets import EngineSheet, MethodSheet, sheet
from bitwright.facts.workloads import workloads

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "facts.md"
HEAD = """# Facts: what plans are made from

Made by `make docs` from rows of TOML beside the code; edit those, not this page. Every row has a source and a date, and
units in the head of its file. `bitwright facts TOPIC` prints them, all or those whose names begin like NAME; of one row
it prints everything; `--json` gives the document (`bitwright.facts.hardware/1` and so on).

```text
bitwright facts hardware            bitwright facts hardware h100-sxm
bitwright facts models qwen3        bitwright facts models deepseek-v3 --json
bitwright facts engines vllm        bitwright facts methods
```

| topic | rows | used by |
|---|---|---|
| hardware | `src/bitwright/facts/hardware.toml` | `--target`, memory, speed, cost |
| models | `src/bitwright/facts/catalogue.toml` | `bitwright plan NAME`, without a download |
| engines | `src/bitwright/facts/engine_*.toml` | [which kernel](preflight.md) runs a type; launch lines |
| methods | `src/bitwright/facts/methods.toml` | `--method` |
| workloads | `src/bitwright/facts/workloads.toml` | lengths and requests at once, where nothing is said |
"""
HARDWARE = """
## Devices

`--target h100-sxm`, or `h100-sxm:2` for two; a name that is several devices (`a100`) is answered with all of them.
`auto` is this machine: what nvidia-smi, rocm-smi or amd-smi report, else the processor. A reported name counts as a
row's when it is the whole name and the memory is the row's: a laptop's card, an RTX 4090 D or an H200 NVL is not taken
for the card whose name it begins with. Then memory and compute capability are known, rates are not. AMD's devices are
taken when they are in the table; Intel's are not looked for. Kernels are looked up by compute capability, and where
there is none by the architecture that AMD and Intel name (gfx942, gaudi3, xe2; `bitwright facts hardware mi300x`).

Rates are 10^12 dense operations per second (datasheets mostly print twice that, with sparsity), on GeForce those with
FP32 accumulation, which is what engines use. Links count both directions. Prices are on demand, the cheapest and the
dearest offer of the survey; they differ by more than twice on one day, and an empty cell means that none was found.

Checked: bandwidth and rates of most rows stand in two independent sources; datasheets were not opened again. One
source, or rates that follow from ratios of the family: H100 NVL, GeForce of the 60, 70 and 80 classes, V100, MI325X,
MI355X, Gaudi 3. Not published, and so rough: the rates of GB10, Orin and Apple's chips. Placeholders: the two
processors. `confidence` of each row says which.
"""
MODELS = """
## Models

Dimensions from the config.json of the checkpoint that is named; a test holds the sum over all tensors against the
published count: equal in all but three rows (two of LLaVA with 13B, InternVL3 14B), where the published count is
rounded or leaves out padding. A folder, `demo` and a hub id come before a name of the catalogue.

A plan by name has no weights behind it: `quantize` needs the checkpoint. All experts of a kind are one tensor in it,
and vision tower and projector are one each. DeepSeek's architecture is planned, not quantized. Not in the catalogue:
models whose architecture this version neither quantizes nor predicts, such as Llama 3.2 Vision and Llama 4.

heads: of queries and of keys with values.
"""
ENGINES = """
## Engines

`bitwright facts engines vllm` prints all about one: every kernel in the order in which the engine looks for one, flags
with what they are for, metrics with their former names. Read in sources and from the engines' own parsers; no kernel
was measured. AMD, Intel, Apple: vLLM's rows were read in the sources of 0.32 as installed (ROCm and XPU), in those of
vllm-gaudi as stored publicly (made for vLLM 0.15 to 0.26), SGLang's on AMD in its documentation alone, llama.cpp's in
the sources of build 11434. None of these machines was at hand; what was not looked up is called so.

Flags that engines no longer know, and what to write instead:
"""
METHODS = """
## Methods and types
"""
WORKLOADS = """
## Loads

Tokens of a typical request, tokens that its prompt shares with others, and requests in progress at once.
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
    """Head, and a section for each topic that is not too long for a page."""
    methods, engines = sheet("methods"), sheet("engines")
    assert isinstance(methods, MethodSheet)
    assert isinstance(engines, EngineSheet)
    parts = [
        HEAD,
        HARDWARE, _markdown(device_table([*hardware_rows().values()])),
        MODELS, _markdown(model_table([*catalogue().values()])),
        ENGINES, _markdown(gone_table(engines.engines)), _markdown(engine_table(engines.engines)),
        METHODS, _markdown(method_table(methods.methods)), _markdown(type_table(methods.formats)),
        WORKLOADS, _markdown(workload_table([*workloads().values()])),
    ]  # fmt: skip
    return "\n".join(parts)


def _markdown(table: FactTable) -> str:
    lines = [table.head, ("---",) * len(table.head), *table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
