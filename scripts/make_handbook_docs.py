"""docs/reference/handbook.md: the handbooks' rules, their trouble, our corrections, out of rows. `--check` compares."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from bitwright.facts.corrections import corrections
from bitwright.facts.decision_rules import Rule, decision_rules, drafts
from bitwright.facts.troubleshooting import SymptomRow, symptom_rows

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "handbook.md"
HEAD = """# The handbooks' rules, and where we differ

Made by `make docs` from `facts/decision_rules.toml`, `facts/troubleshooting.toml` and `facts/corrections.toml`; edit
those, not this page.

Plans rest on the rules of four handbooks: the *deployment guide* (LLM / VLM quantization and inference handbook, v2.1;
a shorter print of it says the same), the *decision framework handbook* (quantization production guide: choosing the
right method), the *production guide* (LLM inference optimization and quantization 2026) and the *model quantization
article*. Their tables of decisions are held row by row by tests (`tests/planner/handbook_rows.toml`,
`tests/planner/test_handbook_*.py`). Where our answer differs on purpose, the row names a correction below; the test
fails once the correction is not needed any more. [Which way to serve a model](planning.md) says how rules and predicted
figures come together.

## Rules

The first that fires goes before later ones. Types are called by their first word; `float` is the checkpoint's own.
"""
TROUBLE = """
## Trouble

Every row of the handbooks' tables of trouble, common mistakes and pitfalls, and what finds it: a finding or a figure of
[`doctor`](doctor.md), a gate of [`validate`](validation.md), a rule of [`lint`](lint.md), or how it is seen where no
file shows it. `doctor` tells the rows that it has grounds for; with `--explain` also those that it cannot see, for
artifacts of the format. `tests/planner/handbook_trouble.toml` holds the handbooks' rows.

| what is seen | because | found by | fix | source |
|---|---|---|---|---|
"""
CORRECTIONS = """
## Corrections

Where the handbooks are out of date, miscounted, or speak against each other about a row that is held by a test.
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" not in arguments:
        PAGE.write_text(text, encoding="utf-8")
        return 0
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        print(f"{PAGE.name} is stale: run `make docs`", file=sys.stderr)
        return 1
    return 0


def page() -> str:
    """The whole page."""
    lines = [HEAD, "| rule | when | does | because | source |", "|---|---|---|---|---|"]
    lines += [
        f"| {rule.id} | {_when(rule)} | {_does(rule)} | {_sentence(rule.because)} | {_cell(rule.source)} |"
        for rule in decision_rules()
    ]
    lines += ["", "### Where documents disagree or are out of date", "", "| rule | resolution |", "|---|---|"]
    lines += [f"| {rule.id} | {_cell(rule.resolution)} |" for rule in decision_rules() if rule.resolution]
    lines += ["", "### Models that draft", "", "| for the family | vocabulary | draft |", "|---|---|---|"]
    lines += [f"| {row.family} | {row.vocab} | {row.hub} |" for row in drafts()]
    lines += [TROUBLE + "\n".join(_trouble(row) for row in symptom_rows())]
    lines += [CORRECTIONS, "| correction | where | says | answered | because | source |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {' | '.join(_cell(text) for text in (row.id, row.where, row.says, row.answer, row.because, row.source))} |"
        for row in corrections().values()
    ]
    return "\n".join(lines) + "\n"


def _trouble(row: SymptomRow) -> str:
    fix = f"{row.fix} (corrected: {', '.join(row.corrections)})" if row.corrections else row.fix
    return f"| {' | '.join(map(_cell, (row.symptom, row.because, _found_by(row), fix, row.source)))} |"


def _found_by(row: SymptomRow) -> str:
    """All that looks for it."""
    seen = list(row.rules)
    seen += ["whatever is found beside the decoder"] if row.vision else []
    seen += [f"{row.figure} above {row.above:g}"] if row.above is not None else []
    seen += [f"{row.figure} below {row.below:g}"] if row.below is not None else []
    named = (("doctor", seen), ("validate", row.gates), ("lint", row.lint))
    found = [f"{who}: {', '.join(what)}" for who, what in named if what]
    return "; ".join([*found, row.measure] if row.measure else found)


def _when(rule: Rule) -> str:
    """The conditions that a row names, as it names them."""
    said = msgspec.to_builtins(rule.when)
    unsaid = {field.name: field.default for field in msgspec.structs.fields(rule.when)}
    named = {name: value for name, value in said.items() if value not in (unsaid[name], [], ())}
    return _cell(", ".join(f"{name.replace('_', ' ')} {_value(value)}".strip() for name, value in named.items()))


def _value(value: object) -> str:
    if value is True:
        return ""
    return " or ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _does(rule: Rule) -> str:
    does = [f"takes {rule.takes}"] if rule.takes else []
    does += [f"prefers {', '.join(rule.prefer)}"] if rule.prefer else []
    does += [f"avoids {', '.join(rule.avoid)}"] if rule.avoid else []
    does += [f"adds {', '.join(rule.adds)}"] if rule.adds else []
    return "; ".join(does)


def _sentence(text: str) -> str:
    places = {"device": "the device", "use_case": "the use case", "prefix": "the shared"}
    return _cell(text.format(**places))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
