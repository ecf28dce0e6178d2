"""A Hugging Face tokenizer as GGUF metadata: tokens, types, merges or scores, special tokens, chat template.

Two kinds are written:
  byte-level BPE               model `gpt2`, with `pre` from pretokenizer.py and the merges as they stand
  BPE with byte fallback       model `llama` (SentencePiece). llama.cpp joins the pair whose result scores highest, so
                               a piece's score is minus the rank of the first merge that makes it: the same order

tokenizer.json is the only source of the vocabulary; `gguf.SpecialVocab` reads special tokens and the chat template, of
a copy of the folder without the vocabulary, which it would parse again and use for nothing.
Whether a begin-of-text token is added is always written out, because llama.cpp's default differs between kinds.

Not here: hyperparameters (metadata.py).
Sources: llama.cpp conversion/base.py (get_vocab_base, _set_vocab_gpt2), gguf-py/gguf/vocab.py, src/llama-vocab.cpp
(llm_tokenizer_spm_session: bigrams by score).
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import gguf
import msgspec

from bitwright.core.errors import InputError, UnsupportedError, from_os_error
from bitwright.formats.ggml.pretokenizer import pre_tokenizer

TOKENIZER = "tokenizer.json"
DOWNLOAD = "download the file again"
BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
UNUSED_SCORE = -1e4  # upstream gives padding tokens this score
SPECIAL_LOOKS = (("<|", "|>"), ("<｜", "｜>"), ("<unused", ">"))
SPECIAL_TEXTS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")


def add_tokenizer(writer: gguf.GGUFWriter, folder: Path, vocab: int) -> None:
    """Write the tokenizer of the Hugging Face `folder` into the writer's metadata, filled up to `vocab` tokens.

    Raises `InputError` on missing or broken files, or more tokens than `vocab`; `UnsupportedError` for other kinds.
    """
    tokenizer = read_json(folder / TOKENIZER)
    if (folder / "tokenizer_config.json").exists():
        read_json(folder / "tokenizer_config.json")
    model = tokenizer.get("model")
    if not isinstance(model, dict) or model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        kind = model.get("type") if isinstance(model, dict) else None
        raise UnsupportedError(f"tokenizer kind `{kind}` in `{folder / TOKENIZER}` is not supported, expected BPE")
    if model.get("byte_fallback"):
        _add_sentencepiece(writer, folder, tokenizer, vocab)
    else:
        _add_byte_level(writer, folder, tokenizer, vocab)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises `InputError`."""
    try:
        raw = path.read_bytes()
        try:
            found = msgspec.json.decode(raw)  # a vocabulary in half the time
        except msgspec.DecodeError:
            found = json.loads(raw.decode())  # knows NaN and Infinity besides
    except OSError as error:
        raise from_os_error(error, path) from error
    except ValueError as error:
        raise InputError(f"`{path}` is not valid JSON: {error}", hint=DOWNLOAD) from error
    if not isinstance(found, dict):
        raise InputError(f"`{path}` holds {type(found).__name__}, expected an object")
    return found


def _add_byte_level(writer: gguf.GGUFWriter, folder: Path, tokenizer: dict[str, Any], vocab: int) -> None:
    tokens, types = _tokens(tokenizer, vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = _merges(tokenizer["model"])
    special = _special_tokens(folder, tokenizer, vocab, load_merges=not merges)
    special.merges = special.merges or merges
    _add_special(writer, special)


def _add_sentencepiece(writer: gguf.GGUFWriter, folder: Path, tokenizer: dict[str, Any], vocab: int) -> None:
    tokens, types = _tokens(tokenizer, vocab)
    unknown = tokenizer["model"].get("unk_token")
    for index, token in enumerate(tokens):
        if token == unknown:
            types[index] = gguf.TokenType.UNKNOWN
        elif types[index] == gguf.TokenType.NORMAL and BYTE_TOKEN.fullmatch(token):
            types[index] = gguf.TokenType.BYTE
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(_scores(tokenizer["model"], tokens, types))
    writer.add_token_types(types)
    writer.add_add_space_prefix(_prefixes_space(tokenizer))
    _add_special(writer, _special_tokens(folder, tokenizer, vocab))


def _tokens(tokenizer: dict[str, Any], vocab: int) -> tuple[list[str], list[int]]:
    """Token texts and types by id. Ids without a token become unused padding tokens."""
    texts = {int(index): text for text, index in tokenizer["model"]["vocab"].items()}
    added = {int(token["id"]): token for token in tokenizer.get("added_tokens") or []}
    texts |= {index: token["content"] for index, token in added.items()}
    if texts and max(texts) >= vocab:
        raise InputError(
            f"the tokenizer knows token {max(texts)} `{texts[max(texts)]}`, but the model has only {vocab} embeddings",
            hint="tokenizer and model do not belong together, or the embedding was not resized",
        )
    tokens, types = [], []
    for index in range(vocab):
        text = texts.get(index)
        if text is None:
            text, kind = f"[PAD{index}]", gguf.TokenType.UNUSED
        elif index not in added:
            kind = gguf.TokenType.NORMAL
        elif added[index].get("special") or _looks_special(text):
            kind = gguf.TokenType.CONTROL
        else:
            text, kind = text.replace("▁", " "), gguf.TokenType.USER_DEFINED
        tokens.append(text)
        types.append(int(kind))
    return tokens, types


def _looks_special(text: str) -> bool:
    """Some checkpoints do not mark their control tokens; upstream goes by these looks."""
    return text in SPECIAL_TEXTS or any(text.startswith(start) and text.endswith(end) for start, end in SPECIAL_LOOKS)


def _scores(model: dict[str, Any], tokens: list[str], types: list[int]) -> list[float]:
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model.get("merges") or []):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault(left + right, rank)
    last = float(-len(ranks) - 1)
    return [
        UNUSED_SCORE if kind == gguf.TokenType.UNUSED else float(-ranks[token]) if token in ranks else last
        for token, kind in zip(tokens, types, strict=True)
    ]


def _prefixes_space(tokenizer: dict[str, Any]) -> bool:
    """Whether text starts with a space before it is split: a Prepend normalizer, or Metaspace with a prepend scheme."""
    steps: list[dict[str, Any]] = []
    for part, key in ((tokenizer.get("normalizer"), "normalizers"), (tokenizer.get("pre_tokenizer"), "pretokenizers")):
        steps += (part.get(key) or [part]) if isinstance(part, dict) else []
    return any(
        step.get("type") == "Prepend"
        or (step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") in ("always", "first"))
        for step in steps
    )


def _merges(model: dict[str, Any]) -> list[str]:
    """Merges as GGUF has them: two parts and a space between, a space inside a part being `Ġ`. Raises `InputError`."""
    merges = model.get("merges") or []
    kinds = set(map(type, merges))
    if kinds <= {str}:
        return list(merges)
    if kinds != {list} or set(map(len, merges)) != {2} or not set(map(type, itertools.chain(*merges))) <= {str}:
        raise InputError(f"`{TOKENIZER}` has merges that are neither texts nor pairs of texts", hint=DOWNLOAD)
    joined = list(map(" ".join, merges))
    if "".join(joined).count(" ") == len(joined):
        return joined
    return [" ".join(part.replace(" ", "\u0120") for part in merge) for merge in merges]


def _special_tokens(
    folder: Path, tokenizer: dict[str, Any], vocab: int, *, load_merges: bool = False
) -> gguf.SpecialVocab:
    """Special tokens and the chat template; with `load_merges` the merges of a `merges.txt`."""
    kept = {key: tokenizer[key] for key in ("added_tokens", "post_processor") if key in tokenizer}
    with tempfile.TemporaryDirectory() as name:
        for path in folder.iterdir():
            if path.name != TOKENIZER:
                (Path(name) / path.name).symlink_to(path.resolve())
        (Path(name) / TOKENIZER).write_text(json.dumps({"model": {}, **kept}), encoding="utf-8")
        return gguf.SpecialVocab(name, load_merges=load_merges, n_vocab=vocab)


def _add_special(writer: gguf.GGUFWriter, special: gguf.SpecialVocab) -> None:
    special.add_special_token.setdefault("bos", False)
    special.add_to_gguf(writer, quiet=True)
