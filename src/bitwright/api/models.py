"""MODEL, as people write it, to a folder on this disk: a folder, a hub id, or the demo."""

from __future__ import annotations

import os
from pathlib import Path

from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.protocols import SILENT, Progress

DEMO = "demo"
DEMO_SHAPES = ("base", "wide")
CACHE_VARIABLE = "BITWRIGHT_CACHE"


def cache_folder() -> Path:
    """Where downloads and the demo are kept: `$BITWRIGHT_CACHE`, else `~/.cache/bitwright`."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/bitwright").expanduser()


def model_folder(model: str | Path, *, progress: Progress = SILENT) -> Path:
    """The folder of `model`; the demo is written and a hub id is downloaded on first use.

    Raises `InputError` for a name that is nothing known, `EnvironmentFault` when the hub does not answer or the demo's
    package is not installed.
    """
    name = str(model)
    if name == DEMO or name.startswith(f"{DEMO}:"):
        return _demo(name, progress)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    from bitwright.formats.hub import resolve_model

    return resolve_model(name, cache_folder() / "hub")


def _demo(name: str, progress: Progress) -> Path:
    shape = name.partition(":")[2] or DEMO_SHAPES[0]
    if shape not in DEMO_SHAPES:
        raise UsageError(
            f"unknown demo `{name}`", hint=did_you_mean(name, [f"{DEMO}:{known}" for known in DEMO_SHAPES])
        )
    folder = cache_folder() / f"{DEMO}-{shape}"
    from bitwright.modeling.demo import write_demo

    progress.say(f"the demo model is kept in {folder}")
    write_demo(folder, shape="wide" if shape == "wide" else "base")
    return folder
