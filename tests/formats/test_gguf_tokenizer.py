"""Tokenizers into GGUF: what gguf reads back, rules told apart, broken input refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.formats.ggml.pretokenizer import RULES, pre_tokenizer
from bitwright.formats.ggml.tokenizer import add_tokenizer
from checkpoints import CHAT_TEMPLATE, SPECIAL_TOKENS, write_tokenizer

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def metadata(folder: Path, vocab: int) -> dict[str, Any]:
    """Every tokenizer key, as gguf reads it from a file."""
    path = folder / "vocabulary.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    add_tokenizer(writer, folder, vocab)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    fields = gguf.GGUFReader(path).fields
    return {key.removeprefix("tokenizer."): field.contents() for key, field in fields.items() if "tokenizer" in key}


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rules_of(steps: list[Any], normalizer: Any = None) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    return pre_tokenizer(json.loads(tokenizer.to_str()))


def test_byte_level_vocabulary_merges_and_special_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, vocab=300)
    found = metadata(tmp_path, 310)
    known = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    count = known.get_vocab_size()
    assert found["ggml.model"] == "gpt2"
    assert found["ggml.pre"] == "gpt-2"
    assert found["ggml.tokens"][:count] == [known.id_to_token(index) for index in range(count)]
    assert found["ggml.tokens"][count:] == [f"[PAD{index}]" for index in range(count, 310)]
    assert found["ggml.token_type"][:4] == [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL]
    assert found["ggml.token_type"][count:] == [gguf.TokenType.UNUSED] * (310 - count)
    assert found["ggml.merges"][:2] == ["e e", "e t"]
    assert (found["ggml.bos_token_id"], found["ggml.eos_token_id"], found["ggml.unknown_token_id"]) == (1, 2, 0)
    assert found["ggml.padding_token_id"] == 2
    assert found["ggml.add_bos_token"] is False
    assert found["chat_template"] == CHAT_TEMPLATE


@pytest.mark.parametrize("merges", [["a b", "c d"], [["a", "b"], ["c", "d"]], [["a b", "c"], ["d", " "]], []])
def test_merges_and_special_tokens_are_those_of_the_library(merges: list[Any], tmp_path: Path) -> None:
    write_tokenizer(tmp_path, vocab=300)
    model = json.loads((tmp_path / "tokenizer.json").read_text())["model"]
    edit(tmp_path / "tokenizer.json", model=model | {"merges": merges})
    (tmp_path / "merges.txt").write_text("#version: 0.2\ne f\ng h\n")  # read where tokenizer.json has none
    found, expected = metadata(tmp_path, 310), gguf.SpecialVocab(tmp_path, load_merges=True, n_vocab=310)
    assert found["ggml.merges"] == expected.merges
    assert found["ggml.eos_token_id"] == expected.special_token_ids["eos"]
    assert found["chat_template"] == expected.chat_template


def test_a_template_that_adds_bos_is_written_out(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    first = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    template = {"type": "TemplateProcessing", "single": [first, {"Sequence": {"id": "A", "type_id": 0}}], "pair": []}
    edit(tmp_path / "tokenizer.json", post_processor=template)
    assert metadata(tmp_path, 320)["ggml.add_bos_token"] is True


def test_kinds_of_added_tokens(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    added = [
        {"id": 0, "content": SPECIAL_TOKENS[0], "special": False, "normalized": False},
        {"id": 318, "content": "▁tool", "special": False, "normalized": False},
        {"id": 319, "content": "[X]", "special": True, "normalized": False},
    ]
    edit(tmp_path / "tokenizer.json", added_tokens=added)
    found = metadata(tmp_path, 320)
    assert found["ggml.token_type"][0] == gguf.TokenType.CONTROL
    assert (found["ggml.tokens"][318], found["ggml.token_type"][318]) == (" tool", gguf.TokenType.USER_DEFINED)
    assert (found["ggml.tokens"][319], found["ggml.token_type"][319]) == ("[X]", gguf.TokenType.CONTROL)


def test_byte_fallback_becomes_sentencepiece_with_merge_order_as_score(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "c", "ab", "abc", "▁a"]
    merges = [["a", "b"], ["▁", "a"], ["ab", "c"]]
    tokenizer = Tokenizer(
        models.BPE({piece: index for index, piece in enumerate(pieces)}, [tuple(merge) for merge in merges],
                   unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )  # fmt: skip
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "add_bos_token": True}))
    found = metadata(tmp_path, 12)
    kinds = gguf.TokenType
    assert found["ggml.model"] == "llama"
    assert found["ggml.tokens"] == [*pieces, "[PAD11]"]
    assert found["ggml.token_type"][:5] == [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, kinds.BYTE, kinds.NORMAL]
    assert found["ggml.token_type"][11] == kinds.UNUSED
    score = dict(zip(found["ggml.tokens"], found["ggml.scores"], strict=True))
    assert score["ab"] > score["▁a"] > score["abc"] > score["c"] > score["[PAD11]"]
    assert found["ggml.add_space_prefix"] is True
    assert found["ggml.add_bos_token"] is True
    assert "ggml.merges" not in found


def test_rules_are_told_apart() -> None:
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert rules_of([gpt2]) == "gpt-2"
    assert rules_of([pre_tokenizers.Digits(individual_digits=True), gpt2]) == "smollm"
    assert rules_of([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BYTES]) == "llama-bpe"
    qwen = Regex(LLAMA3.replace("{1,3}", ""))
    assert rules_of([pre_tokenizers.Split(qwen, "isolated"), BYTES], normalizers.NFC()) == "qwen2"
    assert set(RULES.values()) == {"gpt-2", "smollm", "llama-bpe", "qwen2", "tekken"}


@pytest.mark.parametrize(
    ("steps", "named"),
    [
        ([pre_tokenizers.Split(Regex(LLAMA3), "removed"), BYTES], "Split"),
        ([pre_tokenizers.Split(Regex(r"\w+"), "isolated"), BYTES], r"\\w\+"),
        ([pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.ByteLevel(add_prefix_space=False)], "runs"),
        ([pre_tokenizers.ByteLevel(add_prefix_space=True)], "add_prefix_space"),
        ([pre_tokenizers.Whitespace()], "Whitespace"),
    ],
)
def test_unknown_rules_are_refused_by_name(steps: list[Any], named: str) -> None:
    with pytest.raises(UnsupportedError, match=named):
        rules_of(steps)


def test_a_normalizer_that_llama_cpp_lacks_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Lowercase"):
        rules_of([pre_tokenizers.ByteLevel(add_prefix_space=False)], normalizers.Lowercase())


def test_broken_tokenizers_are_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(None, "llama")
    with pytest.raises(InputError, match="does not exist"):
        add_tokenizer(writer, tmp_path, 320)
    write_tokenizer(tmp_path)
    with pytest.raises(InputError, match="only 100 embeddings"):
        add_tokenizer(writer, tmp_path, 100)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json"):
        add_tokenizer(writer, tmp_path, 320)
    edit(tmp_path / "tokenizer.json", model={"type": "Unigram", "vocab": []})
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(UnsupportedError, match="Unigram"):
        add_tokenizer(writer, tmp_path, 320)
    edit(tmp_path / "tokenizer.json", model={"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b", "c"]]})
    with pytest.raises(InputError, match="neither texts nor pairs"):
        add_tokenizer(writer, tmp_path, 320)
