"""`bitwright lint`: a file, standard input or a line, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.core.errors import InputError, UsageError, from_os_error

if TYPE_CHECKING:
    from bitwright.core.findings import LintRecord


def lint(text: str, *, subject: str = "the line", target: str | None = None) -> LintRecord:
    """What is wrong with a plan, a launch line, a script of them, or a Kubernetes manifest.

    `target` is the device that it would run on (`h100-sxm:2`). Raises `UsageError` for a text without any launch and an
    unknown target, `InputError` for a damaged document.
    """
    from bitwright.facts.hardware import find_device
    from bitwright.planner.lint.run import lint as run

    if not text.strip():
        raise UsageError(f"`{subject}` is empty", hint="give a file, - for standard input, or --line 'vllm serve …'")
    return run(text, subject, find_device(target) if target is not None else None)


def read_subject(path: Path) -> str:
    """The text of a file, or of the plan in an artifact's folder. Raises `InputError`."""
    path = path / "quant.json" if path.is_dir() else path
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"`{path}` is not text", hint="lint reads plan.json, scripts and manifests") from error
    except OSError as error:
        raise from_os_error(error, path) from error
