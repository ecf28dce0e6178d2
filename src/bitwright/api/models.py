"""MODEL, as people write it: a place on this disk (a folder, a float GGUF file, a hub id, the demo), or a name of the
catalogue, which plans are made of without a checkpoint."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.core.errors import InputError, UsageError, did_you_mean, nearest
from bitwright.core.plan import ModelFacts
from bitwright.core.protocols import SILENT, Progress
from bitwright.facts.checkpoint import is_gguf
from bitwright.modeling.demo_marker import DemoShape, is_ready

if TYPE_CHECKING:
    from bitwright.facts.catalogue import CatalogueRow

DEMO = "demo"
BARE_NAME = re.compile(r"[A-Za-z0-9][\w.:-]*")
DEMO_SHAPES = ("base", "wide")
CACHE_VARIABLE = "BITWRIGHT_CACHE"


def cache_folder() -> Path:
    """Where downloads, the demo and measurements of machines are kept: `$BITWRIGHT_CACHE`, else
    `$XDG_CACHE_HOME/bitwright`, else `~/.cache/bitwright`."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "bitwright").expanduser()


def model_folder(model: str | Path, *, progress: Progress = SILENT) -> Path:
    """The folder (or GGUF file) of `model`; the demo is written and a hub id is downloaded on first use.

    Raises `InputError` for a name that is nothing known, `EnvironmentFault` when the hub does not answer or the demo's
    package is not installed.
    """
    name = str(model)
    if is_demo(name):
        return _demo(name, progress)
    if Path(name).expanduser().is_dir():
        return Path(name).expanduser()
    if (row := _catalogue_row(name)) is not None:
        raise without_weights(row.id, row.hub)
    from bitwright.formats.hub import resolve_model

    return resolve_model(name, cache_folder() / "hub")


def described(model: str | Path, lora: str | Path | None = None, *, progress: Progress = SILENT) -> ModelFacts:
    """What MODEL is: a name of the catalogue by its dimensions, anything else by its headers. Raises as `model_folder`
    does, and `UsageError` for an adapter of a model without weights."""
    row = _catalogue_row(str(model))
    if row is None:
        return model_facts_of(model_folder(model, progress=progress), lora)
    if lora:
        raise without_weights(row.id, row.hub)
    from bitwright.facts.catalogue import catalogue_facts

    return catalogue_facts(row)


def without_weights(name: str, hub: str) -> InputError:
    """The error where weights are needed and only dimensions are known."""
    return InputError(
        f"`{name}` is known by its dimensions alone: there are no weights",
        hint=f"give {hub}, which is then downloaded, or a folder of such a checkpoint",
    )


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


def _catalogue_row(name: str) -> CatalogueRow | None:
    """The catalogue's row, for a name that is neither the demo, nor a file, nor a hub id.

    Raises `InputError` for a bare name that is nothing at all.
    """
    bare = bool(BARE_NAME.fullmatch(name)) and not is_demo(name) and not Path(name).exists()
    if not bare:
        return None
    from bitwright.facts.catalogue import catalogue, row_of_model

    if (row := row_of_model(name)) is None:
        listing = "`bitwright facts models` lists the catalogue; a folder holds config.json and *.safetensors"
        raise InputError(
            f"`{name}` is neither a folder, nor a hub id, nor `demo`, nor a model of the catalogue",
            hint=nearest(name.casefold(), [*catalogue(), DEMO], listing),
        )
    return row


def is_demo(name: str) -> bool:
    """Whether MODEL is the demo, in one of its shapes."""
    return name == DEMO or name.startswith(f"{DEMO}:")


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
