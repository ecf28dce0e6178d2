"""How many bytes a vocabulary takes in a GGUF header, so that a file's size is known before it is written.

A header repeats the vocabulary: each token as 8 bytes of length and its UTF-8, 4 bytes of type; each merge as 8 bytes
and its text; for small models this is over a percent of the file. Tokens up to `vocab` that the tokenizer does not have
are written as `[PAD<n>]`.

Not here: writing it (formats/ggml/tokenizer.py).
Source: ggml docs/gguf.md; llama.cpp conversion/base.py (get_vocab_base).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path

import msgspec

FILE = "tokenizer.json"
BYTES_PER_TOKEN = 40  # where tokenizer.json is absent or of another kind; SmolLM2 takes 36, Qwen2 39
STRING, TYPE = 8, 4


class _Added(msgspec.Struct):
    id: int
    content: str


class _Model(msgspec.Struct):
    vocab: dict[str, int]
    merges: list[str | tuple[str, str]] = []


class _Tokenizer(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []


def gguf_vocabulary_bytes(folder: Path, vocab: int) -> int:
    """Bytes of tokens, types and merges for `vocab` tokens; a guess where the tokenizer cannot be read."""
    path = folder / FILE
    try:
        return _counted(path, vocab, path.stat().st_mtime_ns)
    except (OSError, msgspec.DecodeError):
        return vocab * BYTES_PER_TOKEN


@functools.lru_cache(maxsize=4)  # a plan asks for every type that it looks at
def _counted(path: Path, vocab: int, modified: int) -> int:
    """Of the file as it was at `modified`."""
    del modified
    tokenizer = msgspec.json.decode(path.read_bytes(), type=_Tokenizer)
    texts = {number: text for text, number in tokenizer.model.vocab.items()}
    texts.update({token.id: token.content for token in tokenizer.added_tokens})
    tokens = len(texts) * (STRING + TYPE) + _utf8(texts.values())
    padding = sum(STRING + TYPE + len(f"[PAD{number}]") for number in range(len(texts), vocab))
    merges = tokenizer.model.merges
    spaces = sum(not isinstance(merge, str) for merge in merges)
    parts = itertools.chain.from_iterable((merge,) if isinstance(merge, str) else merge for merge in merges)
    return tokens + padding + len(merges) * STRING + spaces + _utf8(parts)


def _utf8(texts: Iterable[str]) -> int:
    return len("".join(texts).encode())
