"""Text → windows of token ids.

A window is `length` consecutive tokens. With seed 0 windows are taken from the start of the text in order, which is
what llama-imatrix and most harnesses do, so that figures can be compared; any other seed draws distinct windows.
Text files are read whole, and tokenized as far as windows from the start need it, or in pieces; JSONL lines hold
`text`, or `messages` that go through the model's chat template.

Not here: text sampled from the model itself (selftext.py).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bitwright.calibration.identity import tokens_sha256
from bitwright.core.errors import InputError, UsageError, from_os_error

HUB_PREFIX = "hub:"
CHARACTERS_PER_TOKEN = 4  # of English; where a token holds more, twice as much text is read
PIECE = 1 << 20  # characters of a text that is tokenized whole
CUT_TOKENS = 256  # a cut changes tokens of the word that it parts, and at most those of its neighbours


@dataclasses.dataclass(frozen=True, slots=True)
class TokenWindows:
    """Windows of one text. `tokens` is int64 [windows, length]; `sha256` identifies them."""

    name: str
    tokens: torch.Tensor
    sha256: str


def make_windows(name: str, tokens: torch.Tensor) -> TokenWindows:
    """Give token ids [W, T] their identity."""
    tokens = tokens.to(torch.int64).contiguous()
    return TokenWindows(name, tokens, tokens_sha256(tokens.numpy()))


def windows_from_files(
    paths: Sequence[str], tokenizer_folder: Path, samples: int, length: int, seed: int = 0
) -> TokenWindows:
    """Tokenize the files one after another and cut windows.

    Raises `InputError` when a file is missing, not UTF-8, or when the text is shorter than one window, `UsageError` on
    counts that are not positive.
    """
    check_counts(samples, length)
    tokenizer = load_tokenizer(tokenizer_folder)
    ids: list[int] = []
    for path in paths:
        text = _read_text(path, tokenizer)
        ids += _all_tokens(tokenizer, text) if seed else _first_tokens(tokenizer, text, samples * length - len(ids))
    available = len(ids) // length
    if available < 1:
        raise InputError(
            f"{', '.join(paths)}: {len(ids)} tokens do not fill one window of {length}",
            hint="give more text, or a smaller --length",
        )
    count = min(samples, available)
    order = torch.arange(count)
    if seed:
        order = torch.randperm(available, generator=torch.Generator().manual_seed(seed))[:count]
    windows = torch.tensor(ids[: available * length]).view(available, length)[order]
    return make_windows(", ".join(Path(path).name for path in paths), windows)


def _first_tokens(tokenizer: Any, text: str, wanted: int) -> list[int]:
    """At least the first `wanted` token ids of a text, or all that it has.

    A tokenizer takes some 300 bytes a token while it works, so no more than is needed is given to it: a beginning of
    the text, doubled until it holds enough. The tokens at its end, which the cut may have changed, are left out.
    """
    if wanted <= 0:
        return []
    size = CHARACTERS_PER_TOKEN * (wanted + CUT_TOKENS)
    while size < len(text):
        ids = _tokens(tokenizer, text[:size])
        if len(ids) >= wanted + CUT_TOKENS:
            return ids[:-CUT_TOKENS]
        size *= 2
    return _tokens(tokenizer, text)


def _all_tokens(tokenizer: Any, text: str) -> Iterator[int]:
    """Every token id of a text, a piece at a time for the same reason. Pieces end with a line, where tokenizers part
    the text anyway."""
    start = 0
    while start < len(text):
        stop = text.rfind("\n", start, start + PIECE) + 1 if start + PIECE < len(text) else len(text)
        stop = stop or start + PIECE
        yield from _tokens(tokenizer, text[start:stop])
        start = stop


def _tokens(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    return ids


def check_counts(samples: int, length: int) -> None:
    """Refuse windows that cannot be."""
    if samples < 1:
        raise UsageError(
            f"{samples} windows were asked for, at least 1 is needed",
            hint="use --samples or --windows with a positive number",
        )
    if length < 8:
        raise UsageError(f"windows of {length} tokens are too short, at least 8 are needed", hint="use --length 512")


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a Hugging Face folder, or of a GGUF file. Raises `InputError` when there is none."""
    from transformers import AutoTokenizer  # seconds to import, and only needed where text is

    if folder.is_file() or not (folder / "config.json").exists():
        files = [folder] if folder.is_file() else sorted(folder.glob("*.gguf"))
        if len(files) == 1:
            return _from_gguf(AutoTokenizer, files[0])
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            f"`{folder}` holds no tokenizer", hint="copy tokenizer.json and tokenizer_config.json of the model into it"
        )
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # the Rust library raises a bare Exception for a broken tokenizer.json
        raise InputError(
            f"the tokenizer in `{folder}` cannot be read: {_first_line(error)}",
            hint="copy tokenizer.json and tokenizer_config.json of the model into it again",
        ) from error


def _from_gguf(loader: Any, file: Path) -> Any:
    try:
        return loader.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, ImportError, NotImplementedError) as error:
        raise InputError(
            f"the tokenizer in `{file}` cannot be read by transformers: {_first_line(error)}",
            hint="give the Hugging Face folder of the model instead of the GGUF file",
        ) from error


def _read_text(path: str, tokenizer: Any) -> str:
    if path.startswith(HUB_PREFIX):
        path = str(_download(path.removeprefix(HUB_PREFIX)))
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"`{path}` is not UTF-8 text: byte {error.start}", hint="convert the file to UTF-8") from error
    except OSError as error:
        raise from_os_error(error, path) from error
    if not path.endswith((".jsonl", ".ndjson")):
        return text
    return "\n\n".join(
        _line_text(path, number, line, tokenizer) for number, line in enumerate(text.splitlines(), 1) if line.strip()
    )


def _line_text(path: str, number: int, line: str, tokenizer: Any) -> str:
    try:
        item = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"`{path}` line {number} is not JSON: {error.msg}") from error
    match item:
        case {"messages": list(messages)}:
            if not tokenizer.chat_template:
                raise InputError(
                    f"`{path}` holds chats, but the model has no chat template", hint="use lines with a `text` field"
                )
            return str(tokenizer.apply_chat_template(messages, tokenize=False))
        case {"text": str(text)}:
            return text
        case _:
            raise InputError(
                f"`{path}` line {number} has neither `text` nor `messages`", hint='write {"text": "…"} on each line'
            )


def _download(name: str) -> Path:
    """One file of a hub data set, written `hub:owner/name/path/in/repo`."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    owner, _, rest = name.partition("/")
    repo, _, file = rest.partition("/")
    if not file:
        raise UsageError(f"`{HUB_PREFIX}{name}` names no file", hint="write hub:owner/name/file.txt")
    try:
        return Path(hf_hub_download(f"{owner}/{repo}", file, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"`{HUB_PREFIX}{name}` cannot be fetched: {_first_line(error)}", hint="give a local file instead"
        ) from error


def _first_line(error: Exception) -> str:
    """What an error of another library says, or its kind where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
