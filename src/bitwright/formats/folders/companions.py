"""Small files of a Hugging Face folder that travel with the model: tokenizer, chat template, licence.

A GGUF file has none of them: config and tokenizer are built from its keys, the tokenizer by transformers.

Weights, pickles (`*.bin`, `*.pt`) and code (`*.py`) never travel: the list says what may, not what may not.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from bitwright.core.errors import from_os_error
from bitwright.facts.checkpoint import is_gguf, read_config
from bitwright.formats.ggml.reader import GgufSource
from bitwright.formats.sniff import gguf_file

PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "chat_template.json",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
)


def read_companions(folder: Path) -> dict[str, bytes]:
    """Name → bytes of the files that go into an artifact unchanged. `folder` may be a GGUF file."""
    if is_gguf(folder):
        return _from_gguf(gguf_file(folder))
    try:
        found = sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()})
        return {path.name: path.read_bytes() for path in found}
    except OSError as error:
        raise from_os_error(error, folder) from error


def read_model_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a folder, or what takes its place for a GGUF file. Raises `InputError`."""
    return GgufSource(gguf_file(folder)).config if is_gguf(folder) else read_config(folder)


def _from_gguf(path: Path) -> dict[str, bytes]:
    from transformers import AutoTokenizer  # seconds to import, and only needed here

    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    with tempfile.TemporaryDirectory() as place:
        tokenizer.save_pretrained(place)
        return {file.name: file.read_bytes() for file in sorted(Path(place).iterdir())}
