"""MODEL, as people write it, to a place on this disk: a folder, a float GGUF file, a hub id, or the demo."""

from __future__ import annotations

import os
from pathlib import Path

from bitwright.core.errors import InputError, UsageError, did_you_mean
from bitwright.core.plan import ModelFacts
from bitwright.core.protocols import SILENT, Progress
from bitwright.facts.checkpoint import is_gguf
from bitwright.modeling.demo_marker import DemoShape, is_ready

DEMO = "demo"
DEMO_SHAPES = ("base", "wide")
CACHE_VARIABLE = "BITWRIGHT_CACHE"


def cache_folder() -> Path:
    """Where downloads and the demo are kept: `$BITWRIGHT_CACHE`, else `~/.cache/bitwright`."""
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/bitwright").expanduser()


def model_folder(model: str | Path, *, progress: Progress = SILENT) -> Path:
    """The folder (or GGUF file) of `model`; the demo is written and a hub id is downloaded on first use.

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


def model_facts_of(place: Path, lora: str | Path | None = None) -> ModelFacts:
    """What the model at `place` is, with an adapter merged in or without.

    A plain checkpoint is described from its headers alone, without a numeric library: plans come at once.
    """
    if lora is None and not is_gguf(place):
        from bitwright.facts.model import model_facts

        return model_facts(place)
    from bitwright.formats.original import open_original

    return open_original(place, adapter_folder(lora)).facts


def adapter_folder(lora: str | Path | None) -> Path | None:
    """The folder of an adapter, if one was named. Raises `InputError` when it does not exist."""
    if lora is None or lora == "":
        return None
    folder = Path(lora).expanduser()
    if not folder.is_dir():
        raise InputError(
            f"`{folder}` is no folder, an adapter was expected",
            hint="give the folder that holds adapter_config.json and adapter_model.safetensors",
        )
    return folder


def _demo(name: str, progress: Progress) -> Path:
    shape = name.partition(":")[2] or DEMO_SHAPES[0]
    if shape not in DEMO_SHAPES:
        raise UsageError(
            f"unknown demo `{name}`", hint=did_you_mean(name, [f"{DEMO}:{known}" for known in DEMO_SHAPES])
        )
    folder = cache_folder() / f"{DEMO}-{shape}"
    known: DemoShape = "wide" if shape == "wide" else "base"
    if not is_ready(folder, known):
        from bitwright.modeling.demo import write_demo

        progress.say(f"the demo model is kept in {folder}")
        write_demo(folder, shape=known)
    return folder
