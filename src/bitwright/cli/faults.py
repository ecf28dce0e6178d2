"""From an exception to `error: …`, `hint: …` and an exit code: the one place where failures become words for people.

The parser's own complaints (an unknown flag, a missing value) take the same form as ours. A traceback is shown only on
request, because it helps the person who mends bitwright and nobody else.
"""

from __future__ import annotations

import os
import sys
import traceback

import typer

from bitwright.core.errors import EXIT_ENVIRONMENT, EXIT_USAGE, BitwrightError, did_you_mean, from_os_error

EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
DEBUG_VARIABLE = "BITWRIGHT_DEBUG"

# Newer versions of typer carry their own copy of click, older ones use the installed one; these names fit both.
ParserUsageError: type[Exception] = typer.BadParameter.__mro__[1]
ParserError: type[Exception] = typer.BadParameter.__mro__[2]


def report(error: BaseException) -> int:
    """Say what went wrong on stderr and return the exit code."""
    if os.environ.get(DEBUG_VARIABLE) and not isinstance(error, KeyboardInterrupt):
        traceback.print_exception(error)
    message, hint, code = describe(error)
    # One line each, however long: terminals wrap, and paths stay whole for whoever copies or searches them.
    print(f"error: {_one_line(message)}", file=sys.stderr)
    if hint:
        print(f"hint: {_one_line(hint)}", file=sys.stderr)
    return code


def describe(error: BaseException) -> tuple[str, str | None, int]:
    """Message, hint and exit code of any exception."""
    if isinstance(error, BitwrightError):
        return error.message, error.hint or "see docs/errors.md", error.exit_code
    if isinstance(error, ParserError):
        return *_parser_words(error), EXIT_USAGE
    if isinstance(error, MemoryError):
        return "out of memory", "use fewer or shorter windows, a smaller model, or a larger machine", EXIT_ENVIRONMENT
    if isinstance(error, OSError):
        fault = from_os_error(error, error.filename or "a file")
        return fault.message, fault.hint or "see docs/errors.md", fault.exit_code
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return (
        f"internal: {text}",
        f"set {DEBUG_VARIABLE}=1 for the traceback, and report it: this is our mistake",
        EXIT_INTERNAL,
    )


def _parser_words(error: Exception) -> tuple[str, str]:
    """The parser's message without its layout, and a hint with the nearest known name."""
    context = getattr(error, "ctx", None)
    command = getattr(context, "command", None)
    path = getattr(context, "command_path", "bitwright")
    message = str(error.format_message() if hasattr(error, "format_message") else error).strip().rstrip(".")
    option = getattr(error, "option_name", None)
    if option and command is not None and option not in (name for names in _flags(command) for name in names):
        known = sorted({name for names in _flags(command) for name in names if name.startswith("--")})
        return f"unknown flag `{option}`", f"{did_you_mean(option, known)}; see `{path} --help`"
    commands = getattr(command, "commands", None)
    if commands and message.startswith("No such command"):
        name = message.split("'")[1]
        return f"unknown command `{name}`", did_you_mean(name, sorted(commands))
    return message[:1].lower() + message[1:], f"see `{path} --help`"


def _flags(command: object) -> list[list[str]]:
    parameters = getattr(command, "params", [])
    return [[*parameter.opts, *parameter.secondary_opts, "--help"] for parameter in parameters]


def _one_line(text: str) -> str:
    return " ".join(text.split())
