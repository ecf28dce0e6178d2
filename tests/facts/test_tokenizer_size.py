"""The size of a vocabulary in a GGUF header, against a header that the gguf package wrote."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import transformers

from bitwright.facts.tokenizer_size import BYTES_PER_TOKEN, gguf_vocabulary_bytes
from checkpoints import write_checkpoint


def test_it_is_what_gguf_writes(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.convert_ids_to_tokens(list(range(320)))
    merges = [" ".join(merge) for merge in json.loads((folder / "tokenizer.json").read_text())["model"]["merges"]]
    sizes = []
    for filled in (False, True):
        path = tmp_path / f"{filled}.gguf"
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_token_list(tokens if filled else ["a"])
        writer.add_token_types([1] * (320 if filled else 1))
        writer.add_token_merges(merges if filled else ["a"])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        sizes.append(path.stat().st_size)
    one_of_each = (8 + 1) + 4 + (8 + 1)
    assert gguf_vocabulary_bytes(folder, 320) == sizes[1] - sizes[0] + one_of_each
    assert gguf_vocabulary_bytes(folder, 330) > gguf_vocabulary_bytes(folder, 320)


def test_it_is_guessed_without_a_readable_tokenizer(tmp_path: Path) -> None:
    assert gguf_vocabulary_bytes(tmp_path, 1000) == 1000 * BYTES_PER_TOKEN
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "Unigram", "vocab": [["a", 0.0]]}}')
    assert gguf_vocabulary_bytes(tmp_path, 1000) == 1000 * BYTES_PER_TOKEN
