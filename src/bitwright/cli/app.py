"""The front door: one command tree, and one place where failures become exit codes.

Why so little is imported here: `bitwright --help` and `bitwright plan` answer before a numeric library would have
loaded. Commands are in their own files; colour and tables are in `render.py`, loaded when something is drawn.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from bitwright.cli import (
    calibrate,
    compare,
    convert,
    doctor,
    facts,
    imatrix,
    inspect,
    lint,
    plan,
    quantize,
    serve,
    ship,
    validate,
)
from bitwright.cli.faults import EXIT_BROKEN_PIPE, EXIT_INTERRUPTED, report
from bitwright.core.provenance import version

EPILOG = """\b
Examples:
  bitwright ship demo --out build/demo
  bitwright plan ./Llama-3.2-1B --use-case code
  bitwright quantize ./Llama-3.2-1B --out q4 --format gguf --type Q4_K_M
  bitwright validate q4 --reference ./Llama-3.2-1B
Exit codes: 0 done or PASS, 1 FAIL, 2 wrong request or input, 3 this machine cannot, 4 INCONCLUSIVE, 130 interrupted."""

ENVIRONMENT = {
    "TRANSFORMERS_VERBOSITY": "error",  # its remarks are for people who write code
    # torch's threads sleep while they wait instead of spinning: on a machine with one other busy process a sampling
    # step took 0.15 s against 1.4 s and more (docs/log.md, 2026-11-21). Read by OpenMP when torch is loaded.
    "OMP_WAIT_POLICY": "PASSIVE",
}

RESUMABLE = ("ship", "quantize")  # what they have finished is on disk

app = typer.Typer(
    name="bitwright",
    help="From a trained checkpoint to a quantized, proven, served language model.",
    epilog=EPILOG,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"bitwright {version()}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


for command in (
    ship,
    plan,
    quantize,
    validate,
    compare,
    doctor,
    serve,
    inspect,
    imatrix,
    convert,
    facts,
    calibrate,
    lint,
):
    app.command(epilog=command.EPILOG)(command.run)

# Objects between two searches for cycles, 700 by default: imports make hundreds of thousands that all stay, and looking
# through them again and again is a tenth of a second of every command's start.
GC_ALLOCATIONS = 50_000


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Never raises, never prints a traceback unless asked."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        code = typer.main.get_command(app).main(args=argv, prog_name="bitwright", standalone_mode=False)
        sys.stdout.flush()
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # The reader of stdout has gone (`| head`), which the parser turns into SystemExit(1), our FAIL. The verdict may
        # not have been read, so this is no 0 either. Give the interpreter something to flush into.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:  # noqa: BLE001 - the last door: whatever comes leaves as one line
        return report(error)
    if code == EXIT_INTERRUPTED:
        print("interrupted" + _resumption(sys.argv[1:] if argv is None else argv), file=sys.stderr)
    return code if isinstance(code, int) else 0


def run() -> int:
    """What the installed command calls: one command line, and then the end of the process."""
    gc.set_threshold(GC_ALLOCATIONS)
    code = main()
    gc.freeze()  # a last search for cycles in all of torch takes a second and frees what ends with the process anyway
    return code


def _resumption(words: Sequence[str]) -> str:
    """What to say of the work that an interrupted command has done."""
    command = next((word for word in words if not word.startswith("-")), None)
    return "; the same command goes on from here" if command in RESUMABLE else ""
