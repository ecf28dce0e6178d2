"""docs/reference/records.md and the JSON schemas beside it, out of the structs in core. `--check` compares.

Meanings are the comments beside the fields. Units follow from names, by the rules below; a number without a unit is an
error, so that no field is added without one.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from bitwright.core.comparison import ComparisonRecord
from bitwright.core.records import ValidationRecord

ROOT = Path(__file__).parents[1]
CORE = ROOT / "src" / "bitwright" / "core"
FOLDER = ROOT / "docs" / "reference"
PAGE = FOLDER / "records.md"
DOCUMENTS = (("validation", ValidationRecord), ("comparison", ComparisonRecord))
HEAD = """# Fields of validation.json and comparison.json

Made by `make docs` from the structs of `core`; edit those, not this page. Each document names its schema and version in
`schema`; a reader of another version refuses it. A number of the version changes where a field is taken away or means
something else; fields with a default may be added without. Unknown fields are refused, and so is a wrong type. As JSON
Schema (2020-12): [validation](validation.schema.json), [comparison](comparison.schema.json).

All estimates carry 95 % intervals unless `confidence` says otherwise; the unit of error is the window of text.
"""
UNITS = (  # (struct, field) as a pattern, unit; the first that fits
    (r"Estimate\..*", "that of the figure"),
    (r"LongOutput\.(\w+_rise|end_drop|never_parted)", "share, 0 to 1"),
    (r"LongOutput\.first_divergence", "tokens"),
    (r"ConfidenceBin\.(low|high)", "probability"),
    (r"Gate\.(limit|estimate)", "that of the measure"),
    (r"Provenance\.threads|AgreementBin\.texts|EngineCheck\.(positions|top)", "count"),
    (r".*\.(parameters|looks|seed|group|items|lost|won|replies|prompts|repeats)", "count"),
    (r".*\.\w*bytes", "bytes"),
    (r".*\.\w*seconds", "seconds"),
    (r"PositionBin.interval|.*\.(kl|kl_\w+|\w+_kl|behind|difference|cache_error|allowed)", "nats per token"),
    (r".*\.perplexity_ratio", "ratio"),
    (r".*\.perplexity_\w+", "perplexity"),
    (r".*\.(\w*agreement|\w*flips|share|confidence|rms_probability_change|\w*rate|mcnemar_p)", "share, 0 to 1"),
    (r".*\.(\w*tokens|length|context|position|start|stop|horizon)", "tokens"),
    (r".*\.(windows\w*)", "windows"),
    (r".*\.window", "index of a window, from 0"),
    (r".*\.layer", "index of a block, from 0; -1 is the embedding"),
    (r".*\.\w*error", "relative squared error"),
    (r".*\.bits_per_weight", "bits"),
    (r".*\.\w*sha256", "SHA-256, hexadecimal"),
    (r".*\.created", "ISO 8601, UTC"),
    (r".*\.\w*inflation", "ratio"),
    (r"TaskResult\.(reference|artifact|drop)", "that of the metric"),
    (r"Diagnosis\.evidence", "that of each figure"),
)
NUMBERS = {"int", "float", "Estimate"}


class Field(NamedTuple):
    """One line of a table."""

    name: str
    type: str
    unit: str
    meaning: str


class Struct(NamedTuple):
    """One table."""

    name: str
    about: str
    fields: tuple[Field, ...]


def main(arguments: list[str]) -> int:
    """Write the pages, or compare them."""
    pages = {PAGE: render()} | {FOLDER / f"{name}.schema.json": schema(kind) for name, kind in DOCUMENTS}
    if "--check" not in arguments:
        for path, text in pages.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path.name for path, text in pages.items() if not path.exists() or path.read_text("utf-8") != text]
    for name in stale:
        print(f"{name} is stale: run `make docs`", file=sys.stderr)
    return 1 if stale else 0


def schema(kind: type) -> str:
    """The JSON Schema of a document."""
    return json.dumps(msgspec.json.schema(kind), indent=1, ensure_ascii=False) + "\n"


def render() -> str:
    """A section for each struct, those that a document begins with first."""
    held = structs()
    parts, done = [HEAD], set()
    for _, kind in DOCUMENTS:
        for name in reached(kind.__name__, held):
            if name not in done:
                done.add(name)
                parts.append(_section(held[name]))
    return "\n".join(parts)


def structs() -> dict[str, Struct]:
    """All records of core, by name."""
    found = {}
    for path in sorted(CORE.glob("*.py")):
        comments = _comments(path)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                fields = tuple(
                    _field(node.name, line, comments) for line in node.body if isinstance(line, ast.AnnAssign)
                )
                found[node.name] = Struct(node.name, " ".join((ast.get_docstring(node) or "").split()), fields)
    return found


def reached(name: str, held: dict[str, Struct]) -> Iterator[str]:
    """A struct and those that its fields hold, each once."""
    seen, waiting = set(), [name]
    while waiting:
        name = waiting.pop(0)
        if name in seen or name not in held:
            continue
        seen.add(name)
        yield name
        waiting += [word for field in held[name].fields for word in re.findall(r"\w+", field.type)]


def _field(struct: str, node: ast.AnnAssign, comments: dict[int, str]) -> Field:
    assert isinstance(node.target, ast.Name)
    name, kind = node.target.id, ast.unparse(node.annotation)
    lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
    meaning = " ".join(comments[line] for line in lines if line in comments)
    return Field(name, kind, _unit(f"{struct}.{name}"), meaning)


def _unit(name: str) -> str:
    return next((unit for pattern, unit in UNITS if re.fullmatch(pattern, name)), "")


def _comments(path: Path) -> dict[int, str]:
    with tokenize.open(path) as handle:
        tokens = tokenize.generate_tokens(handle.readline)
        return {token.start[0]: token.string[1:].strip() for token in tokens if token.type == tokenize.COMMENT}


def _section(struct: Struct) -> str:
    rows = []
    for field in struct.fields:
        if set(re.findall(r"\w+", field.type)) & NUMBERS and not field.unit:
            raise SystemExit(
                f"{struct.name}.{field.name} is a number without a unit: add a rule to {Path(__file__).name}"
            )
        kind = field.type.replace("|", "or").replace("tuple[", "list of ").replace(", ...]", "")
        rows.append(f"| `{field.name}` | {kind} | {field.unit} | {field.meaning.replace('|', '/')} |")
    return "\n".join(
        [f"## {struct.name}", "", struct.about, "", "| field | type | unit | |", "|---|---|---|---|", *rows, ""]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
