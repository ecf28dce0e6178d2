"""What an artifact says beside its weights: vocabulary, special tokens, chat template, how text is split.

A Hugging Face folder says it in five small files and a GGUF file in keys; both are read into one shape, so that an
artifact can be held against its original across formats. What a folder does not say is left empty, and nothing is
guessed.

Not here: dimensions and constants of the model (`WeightSource.config`), what a difference means
(evaluation/settings.py).
Sources: transformers 5.23, tokenization_utils_base.py (chat_template.jinja before tokenizer_config.json); gguf-py
constants.py (Keys.Tokenizer).
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gguf

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.facts.checkpoint import CONFIG, is_gguf
from bitwright.formats.ggml.pretokenizer import RULES, pre_tokenizer
from bitwright.formats.ggml.summary import open_gguf
from bitwright.formats.sniff import gguf_file

ROLES = ("bos", "eos", "pad")
GGUF_ROLES = {"bos": "bos", "eos": "eos", "pad": "padding"}
TEMPLATE_KEY = "tokenizer.chat_template"
DEFAULT_TEMPLATE = "default"
KNOWN_SPLITTING = tuple(sorted(set(RULES.values())))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class SpecialToken:
    """Ids that one place gives to a role; end of text may have several."""

    role: str
    where: str
    ids: frozenset[int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that turns text into tokens and back. `tokens` is empty where no vocabulary could be read."""

    tokens: dict[int, str]
    tokens_where: str
    merges: tuple[str, ...]
    splitting: str | None  # llama.cpp's name of the pre-tokenizer
    splitting_where: str
    special: tuple[SpecialToken, ...]
    template: str | None
    template_where: str


def read_settings(path: Path) -> Settings:
    """Read a folder or a GGUF file. Raises `InputError` on broken files."""
    return _from_gguf(gguf_file(path)) if is_gguf(path) else _from_folder(path)


def _from_gguf(path: Path) -> Settings:
    fields = open_gguf(path).fields

    def value(key: str) -> Any:
        return fields[key].contents() if key in fields else None

    types = value("tokenizer.ggml.token_type") or []
    texts = value("tokenizer.ggml.tokens") or []
    unused = {index for index, kind in enumerate(types) if kind == gguf.TokenType.UNUSED}
    special = []
    for role, name in GGUF_ROLES.items():
        key = f"tokenizer.ggml.{name}_token_id"
        if (found := value(key)) is not None:
            special.append(SpecialToken(role=role, where=key, ids=frozenset([int(found)])))
    byte_pairs = value("tokenizer.ggml.model") == "gpt2"
    return Settings(
        tokens={index: text for index, text in enumerate(texts) if index not in unused},
        tokens_where="tokenizer.ggml.tokens",
        merges=tuple(value("tokenizer.ggml.merges") or ()),
        splitting=(value("tokenizer.ggml.pre") or "default") if byte_pairs else None,
        splitting_where="tokenizer.ggml.pre",
        special=tuple(special),
        template=value(TEMPLATE_KEY),
        template_where=TEMPLATE_KEY,
    )


def _from_folder(folder: Path) -> Settings:
    tokenizer, settings = _object(folder / "tokenizer.json"), _object(folder / "tokenizer_config.json")
    model = tokenizer.get("model") or {}
    tokens = _tokens(model)
    tokens |= {int(token["id"]): str(token["content"]) for token in tokenizer.get("added_tokens") or []}
    template, where = _template(folder, settings)
    pairs = model.get("type") == "BPE" and not model.get("byte_fallback")
    return Settings(
        tokens=tokens,
        tokens_where="tokenizer.json",
        merges=tuple(one if isinstance(one, str) else " ".join(one) for one in model.get("merges") or ()),
        splitting=_splitting(tokenizer) if pairs else None,
        splitting_where="tokenizer.json pre_tokenizer",
        special=tuple(_special(folder, settings, {text: index for index, text in tokens.items()})),
        template=template,
        template_where=where,
    )


def _object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"`{path}` cannot be read: {error}", hint="copy it from the original again") from error
    if not isinstance(found, dict):
        raise InputError(f"`{path}` holds a JSON {type(found).__name__}, expected an object")
    return found


def _tokens(model: dict[str, Any]) -> dict[int, str]:
    """Texts by id: a mapping (BPE, WordPiece) or a list of pieces with scores (Unigram)."""
    held = model.get("vocab")
    if isinstance(held, dict):
        return {int(index): str(text) for text, index in held.items()}
    return {index: str(piece[0]) for index, piece in enumerate(held or [])}


def _splitting(tokenizer: dict[str, Any]) -> str | None:
    try:
        return pre_tokenizer(tokenizer)
    except (UnsupportedError, InputError):  # rules that llama.cpp has no name for cannot be compared by name
        return None


def _special(folder: Path, settings: dict[str, Any], ids: dict[str, int]) -> list[SpecialToken]:
    found = []
    for file in (CONFIG, "generation_config.json"):
        held = _object(folder / file)
        held = held | (held.get("text_config") or {}) if file == CONFIG else held
        for role in ROLES:
            value = held.get(f"{role}_token_id")
            several = value if isinstance(value, list) else [] if value is None else [value]
            if several:
                where = f"{file} {role}_token_id"
                found.append(SpecialToken(role=role, where=where, ids=frozenset(int(one) for one in several)))
    for role in ROLES:
        token = settings.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str) and text in ids:
            where = f"tokenizer_config.json {role}_token"
            found.append(SpecialToken(role=role, where=where, ids=frozenset([ids[text]])))
    return found


def _template(folder: Path, settings: dict[str, Any]) -> tuple[str | None, str]:
    """The template that transformers would take, and where it stands."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8"), own.name
    for name, held in (
        ("chat_template.json", _object(folder / "chat_template.json")),
        ("tokenizer_config.json", settings),
    ):
        found = held.get("chat_template")
        if isinstance(found, list):
            named = {str(one.get("name")): str(one.get("template")) for one in found if isinstance(one, dict)}
            found = named.get(DEFAULT_TEMPLATE) or next(iter(named.values()), None)
        if isinstance(found, str):
            return found, name
    return None, own.name
