"""Who made a record: versions, machine, time."""

from __future__ import annotations

import datetime
import os
import platform

from bitwright.core.records import Provenance

LIBRARIES = ("torch", "transformers", "numpy", "numba", "gguf", "compressed-tensors", "safetensors", "xllamacpp")


def provenance() -> Provenance:
    """Describe this process. Libraries that are not installed are left out."""
    versions = {name: _installed(name) for name in LIBRARIES}
    found = {name: number for name, number in versions.items() if number is not None}
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
    return _installed("bitwright") or "0+unknown"


def _installed(name: str) -> str | None:
    # metadata brings the parser of mail headers with it: a tenth of the time of `--help`, which needs no version
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
