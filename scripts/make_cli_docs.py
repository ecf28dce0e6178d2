"""docs/reference/cli.md out of the commands' own declarations. `--check` fails when the page is stale.

Why not the text of `--help`: its layout is the parser's and changes with its version; the declarations are ours.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from bitwright.cli.app import app

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "cli.md"
HEAD = """# Command line

Made by `make docs` from the commands' declarations; edit those, not this page.
"""


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    page = render()
    if "--check" not in arguments:
        PAGE.parent.mkdir(parents=True, exist_ok=True)
        PAGE.write_text(page, encoding="utf-8")
        return 0
    if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page:
        return 0
    print(f"{PAGE.name} is stale: run `make docs`", file=sys.stderr)
    return 1


def render() -> str:
    """The group, then one section per command."""
    group: Any = typer.main.get_command(app)
    parts = [HEAD, _examples(group.epilog)]
    parts += [_section(name, command) for name, command in group.commands.items()]
    return "\n".join(parts)


def _section(name: str, command: Any) -> str:
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    words = ["bitwright", name, *(argument.metavar for argument in arguments), "[FLAGS]"]
    rows = [
        f"| `{argument.metavar}` | {_cell(argument.help)} | {'required' if argument.required else ''} |"
        for argument in arguments
    ]
    rows += [f"| {_flag(option)} | {_cell(option.help)} | {_default(option)} |" for option in options]
    table = "\n".join(["| | meaning | default |", "|---|---|---|", *rows])
    return f"## `{' '.join(words)}`\n\n{command.help}\n\n{table}\n\n{_examples(command.epilog)}"


def _flag(option: Any) -> str:
    names = " / ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return f"{names} `{option.metavar}`".replace("|", "\\|") if option.metavar else names


def _default(option: Any) -> str:
    if option.required:
        return "required"
    if option.default is None or option.default is False:
        return ""
    return "yes" if option.default is True else f"`{option.default}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _examples(epilog: str) -> str:
    return f"```text\n{epilog.lstrip(chr(8)).strip()}\n```\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
