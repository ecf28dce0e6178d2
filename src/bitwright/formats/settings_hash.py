"""One hash of all that decides beside the weights, so that a verdict can be held against it.

Of a GGUF file: everything before the tensor data, the place of the verdict taken as empty. Of a folder: config,
tokenizer, templates and the settings of quantization, name by name; model card, licence and bitwright's own records
decide nothing and are left out.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from bitwright.core.atomic import sha256_file
from bitwright.core.plan import ArtifactFormat
from bitwright.facts.checkpoint import CONFIG
from bitwright.formats.folders.companions import PATTERNS
from bitwright.formats.ggml.summary import header_sha256, open_gguf
from bitwright.formats.sniff import SIDE_CONFIGS

LEGAL = ("LICENSE*", "NOTICE*")


def settings_sha256(place: Path, kind: ArtifactFormat) -> str:
    """Hex SHA-256. Raises `InputError` for files that cannot be read."""
    if kind == "gguf":
        return header_sha256(place, open_gguf(place))
    patterns = [CONFIG, *SIDE_CONFIGS, *(pattern for pattern in PATTERNS if pattern not in LEGAL)]
    digest = hashlib.sha256()
    for path in sorted({path for pattern in patterns for path in place.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name} {sha256_file(path)}\n".encode())
    return digest.hexdigest()
