"""docs/reference/engines.md and lint.md: flags, metrics and rules, as tables of facts have them. `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

from bitwright.facts.engine_flags import EngineFlag, endpoints, engine_flags, metrics
from bitwright.facts.engine_options import FILES, engine_options
from bitwright.facts.lint_rules import lint_rules

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reference"
ENGINES_HEAD = """# Serving engines: flags, health, metrics

Made by `make docs` from `facts/engine_flags.toml` and `facts/engine_metrics.toml`, where every row has its source and
date. Flags are held against options that were recorded from the engines' own parsers (`facts/engine_options`), and for
llama.cpp and vLLM a test compares the record with the engine that is installed.

Every plan ends in a launch line with all that it counted with: length, requests at once, type of the cache, devices,
address. `bitwright serve` obeys it: context, requests and cache of an artifact are its plan's, unless `--context`,
`--parallel` or `--kv-cache` say otherwise. llama.cpp shares one context among its requests, so `--context` is the sum.
What stays at the engine's default is left out. Engines listen on 127.0.0.1: whoever opens them gives them a key.

| | taken by |
|---|---|
| vLLM 0.32, `vllm serve` | its parser, all lines of the tests |
| llama.cpp b11549, `llama-server` | its parser (inside xllamacpp), all lines of the tests |
| SGLang 0.5.23, LMDeploy 0.18 | options recorded from the parsers of their wheels |
| TensorRT-LLM 1.2 | options read from its source; nothing was run |

No line was run on a GPU. On AMD's devices the lines are the same: what makes vLLM faster there is a variable of the
environment, which `bitwright plan --explain` names as advice. On Gaudi, FP8 keys and values are `fp8_inc`, for which
scales must have been measured with Intel's Neural Compressor before; they are taken only where they are asked for.
"""
LINT_HEAD = """# Lint

```sh
bitwright lint plan.json
bitwright lint deployment.yaml
bitwright lint --line 'vllm serve Qwen/Qwen3-32B-AWQ --swap-space 4' --target a100-80-sxm
```

One finding a line: severity, rule, where, what, the fix, the source of the rule. `--json` gives the document. The code
is 1 where an error was found, 0 where there are only warnings or nothing, 2 where there was nothing to read.

Read are a plan (or the `quant.json` of an artifact), lines and scripts that start vLLM, SGLang, TensorRT-LLM,
llama.cpp, LMDeploy, TGI, Ollama or transformers (also through `docker run`), files of environment variables, and
Kubernetes manifests with their probes, GPUs, monitors and autoscalers.

What is not known is not judged. The device comes from `--target`, from a manifest's `nvidia.com/gpu.product`, or
from the plan. The model's format is read from its name (AWQ, FP8, w8a8, …) and from `config.json` where the path is a
folder; its size from the catalogue. Files that a line names (`--config x.yaml`) are not read. Memory is judged at the
least overhead of an engine: what is found does not fit, and what is not found may still fail.

Made by `make docs` from `facts/lint_rules.toml`; a test plants every mistake and looks for it, and for nothing in sound
texts.

| rule | severity | says | fix |
|---|---|---|---|
"""


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    pages = {FOLDER / "engines.md": engines_page(), FOLDER / "lint.md": lint_page()}
    if "--check" not in arguments:
        for path, text in pages.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if stale:
        print(f"{' and '.join(stale)} stale: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


def engines_page() -> str:
    parts = [ENGINES_HEAD]
    for engine in dict.fromkeys(row.engine for row in engine_flags()):
        version = f" {engine_options(engine).version}" if engine in FILES else ""
        rows = [row for row in engine_flags() if row.engine == engine]
        parts += [f"\n## {engine}{version}\n", "| for | flag | default | |", "|---|---|---|---|"]
        parts += [
            f"| {row.purpose} | `{row.name}` | {row.default} | {_remark(row)} |" for row in rows if not row.removed
        ]
        gone = [row for row in rows if row.removed]
        if gone:
            parts += ["", "| gone | since | instead |", "|---|---|---|"]
            parts += [f"| {_name(row)} | {row.removed} | {_cell(row.instead)} |" for row in gone]
    parts += ["\n## Health and metrics\n", "| engine | port | health | metrics | |", "|---|---|---|---|---|"]
    for row in endpoints().values():
        remark = ". ".join(text for text in (f"needs `{row.needs}`" if row.needs else "", row.note) if text)
        parts.append(f"| {row.engine} | {row.port} | `{row.health}` | {row.metrics or 'none'} | {_cell(remark)} |")
    parts += ["", "| measures | metric | formerly |", "|---|---|---|"]
    parts += [f"| {row.measures} | `{row.name}` | {', '.join(f'`{old}`' for old in row.was)} |" for row in metrics()]
    return "\n".join(parts) + "\n"


def lint_page() -> str:
    rules = lint_rules().values()
    return LINT_HEAD + "".join(
        f"| {row.id} | {row.severity} | {_cell(row.says)} | {_cell(row.fix)} |\n" for row in rules
    )


def _name(row: EngineFlag) -> str:
    """Programs are no files of ours, and do not look like them on the page."""
    return row.name if row.purpose == "command" else f"`{row.name}`"


def _remark(row: EngineFlag) -> str:
    known = [row.values, row.means, f"deprecated since {row.deprecated}: {row.instead}" if row.deprecated else ""]
    kind = {"flag": "", "env": "environment variable", "yaml": "key of the YAML file"}[row.kind]
    return _cell("; ".join(text for text in (kind, *known) if text))


def _cell(text: str) -> str:
    return text.replace("{{", "{").replace("}}", "}").replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
