"""Windows from the start of a long text are those of the whole text, and only its beginning is tokenized."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from bitwright.calibration import corpora
from bitwright.calibration.corpora import windows_from_files

SENTENCE = "Pack my box, she said,  with 5 dozen liquor jugs:\n\nthe quick brown fox jumped over {} lazy dogs.\n"
TEXT = "".join(SENTENCE.format(number * 977 % 1013) for number in range(300))


class Counting:
    """A tokenizer that says how much it was given."""

    def __init__(self, kind: str) -> None:
        tokenizer = Tokenizer(models.BPE())
        if kind == "bytes":
            tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        else:  # as of Llama 2: the text is one word
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=200, show_progress=False))
        self._tokenizer, self.given = tokenizer, 0

    def encode(self, text: str, **_: Any) -> list[int]:
        self.given += len(text)
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids


@pytest.mark.parametrize("kind", ["bytes", "one word"])
@pytest.mark.parametrize(("samples", "seed"), [(1, 0), (3, 0), (20, 0), (9999, 0), (3, 5)])
def test_windows_are_those_of_the_whole_text(
    kind: str, samples: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = Counting(kind)
    monkeypatch.setattr(corpora, "load_tokenizer", lambda _folder: tokenizer)
    monkeypatch.setattr(corpora, "CUT_TOKENS", 32)
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for file, part in zip(files, (TEXT[:400], TEXT), strict=True):
        file.write_text(part)
    found = windows_from_files([str(file) for file in files], tmp_path, samples, 16, seed).tokens
    given, whole = tokenizer.given, torch.tensor([*tokenizer.encode(TEXT[:400]), *tokenizer.encode(TEXT)])
    windows = whole[: len(whole) // 16 * 16].view(-1, 16)
    if seed:
        windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))]
    assert torch.equal(found, windows[:samples])
    if samples < 9 and not seed:
        assert given < len(TEXT) / 3


@pytest.mark.parametrize("text", [TEXT, "x" * 3000, "\n" * 900 + TEXT[:700]])
def test_a_long_text_is_tokenized_in_pieces(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, pieces = Counting("bytes"), []
    monkeypatch.setattr(corpora, "load_tokenizer", lambda _folder: tokenizer)
    monkeypatch.setattr(corpora, "PIECE", 500)
    plain = tokenizer.encode
    monkeypatch.setattr(tokenizer, "encode", lambda piece, **_: pieces.append(piece) or plain(piece))
    (tmp_path / "a.txt").write_text(text)
    found = windows_from_files([str(tmp_path / "a.txt")], tmp_path, 9999, 8, seed=5).tokens
    assert "".join(pieces) == text
    assert max(map(len, pieces)) <= 500
    assert all(piece.endswith("\n") for piece in pieces[:-1]) == ("\n" in text)
    ids = [id for piece in pieces for id in plain(piece)]
    assert sorted(found.flatten().tolist()) == sorted(ids[: len(ids) // 8 * 8])
