"""Who made a record: versions, machine, time."""

from __future__ import annotations

import datetime
import functools
import hashlib
import os
import platform
from pathlib import Path

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
        code_sha256=code_sha256(),
    )


@functools.cache
def code_sha256() -> str:
    """Hex SHA-256 of the package's source files and tables: two checkouts of one version number are told apart."""
    place = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted([*place.rglob("*.py"), *place.rglob("*.toml")]):
        digest.update(f"{path.relative_to(place)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


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
