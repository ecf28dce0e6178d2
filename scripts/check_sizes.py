"""Files of at most 400 lines, functions of at most 60, test files of at most 600: what does not fit holds two ideas."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILE_LINES = {"src": 400, "bench": 400, "scripts": 400, "tests": 600}
FUNCTION_LINES = 60


def main() -> int:
    """Print every offender; 1 if there is one."""
    found = [line for folder, limit in FILE_LINES.items() for line in offenders(ROOT / folder, limit)]
    for line in found:
        print(line, file=sys.stderr)
    return 1 if found else 0


def offenders(folder: Path, limit: int) -> Iterator[str]:
    """One line per file or function that is too long."""
    for path in sorted(folder.rglob("*.py")):
        if "work" in path.relative_to(folder).parts:
            continue
        text = path.read_text(encoding="utf-8")
        name, lines = path.relative_to(ROOT), text.count("\n")
        if lines > limit:
            yield f"{name}: {lines} lines, at most {limit}"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > FUNCTION_LINES:
                    yield f"{name}:{node.lineno}: `{node.name}` has {length} lines, at most {FUNCTION_LINES}"


if __name__ == "__main__":
    sys.exit(main())
