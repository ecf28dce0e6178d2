"""What is kept of a reference, so that it is not measured again: its floors, and its logits where that is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.api.models import cache_folder
from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import BitwrightError, InputError
from bitwright.core.protocols import Progress, WeightSource
from bitwright.core.records import Floors

if TYPE_CHECKING:
    import torch

    from bitwright.evaluation.reference_cache import ReferenceCache
    from bitwright.tensors.devices import Devices

AUTO = "auto"


def reference_cache_of(asked: Path | str | None, fingerprint: str) -> ReferenceCache | None:
    """The cache in the folder that was asked for; `auto`: in the user's cache."""
    from bitwright.evaluation.reference_cache import ReferenceCache

    if asked is None:
        return None
    folder = cache_folder() / "references" if str(asked) == AUTO else Path(asked)
    return ReferenceCache(folder=folder, fingerprint=fingerprint)


def floors_of(source: WeightSource, tokens: torch.Tensor, *, devices: Devices, progress: Progress) -> Floors:
    """The floors of a reference as they were measured once, on this machine's kind of device, by this code."""
    from bitwright.evaluation.floors import measure_floors
    from bitwright.evaluation.reference_cache import code_version

    name = f"{source.facts.fingerprint[:32]}-{code_version()[:16]}-{devices[0].type}.json"
    path = cache_folder() / "floors" / name
    try:
        return read_document(Floors, path)
    except InputError:
        found = measure_floors(source, tokens, devices=devices, progress=progress)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_document(found, path)
    except (OSError, BitwrightError):
        progress.say("the floors were not kept: the cache folder cannot be written")
    return found
