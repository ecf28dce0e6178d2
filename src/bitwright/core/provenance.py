"""Who made a record: versions, machine, time."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata

from bitwright.core.records import Provenance

LIBRARIES = ("torch", "transformers", "numpy", "numba", "gguf", "compressed-tensors", "safetensors", "xllamacpp")


def provenance() -> Provenance:
    """Describe this process. Libraries that are not installed are left out."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return Provenance(
        bitwright=version(),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        libraries=found,
        threads=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def version() -> str:
    """Version of bitwright itself."""
    try:
        return metadata.version("bitwright")
    except metadata.PackageNotFoundError:
        return "0+unknown"
