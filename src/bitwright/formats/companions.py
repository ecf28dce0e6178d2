"""Small files of a Hugging Face folder that travel with the model: tokenizer, chat template, licence.

Weights, pickles (`*.bin`, `*.pt`) and code (`*.py`) never travel: the list says what may, not what may not.
"""

from __future__ import annotations

from pathlib import Path

from bitwright.core.errors import from_os_error

PATTERNS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "generation_config.json",
    "chat_template.json",
    "*.jinja",
    "LICENSE*",
    "NOTICE*",
)


def read_companions(folder: Path) -> dict[str, bytes]:
    """Name → bytes of the files that go into an artifact unchanged."""
    try:
        found = sorted({path for pattern in PATTERNS for path in folder.glob(pattern) if path.is_file()})
        return {path.name: path.read_bytes() for path in found}
    except OSError as error:
        raise from_os_error(error, folder) from error
