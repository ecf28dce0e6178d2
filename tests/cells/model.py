"""The model of the table: real weights in dimensions that every format takes, small enough for hundreds of artifacts.

It is the first blocks of `demo:wide` (multiples of 256 throughout) under the first tokens of its vocabulary. Blocks
that were trained have outliers, skewed rows and massive activations, which random ones do not.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from bitwright.modeling.demo import write_demo

LAYERS = 2
VOCAB = 2048


def write_first_blocks(folder: Path) -> Path:
    """Write the model into `folder`; the whole one comes to lie beside it."""
    whole = folder.with_name("whole")
    write_demo(whole, shape="wide")
    folder.mkdir()
    config = json.loads((whole / "config.json").read_text())
    cut = config | {"num_hidden_layers": LAYERS, "vocab_size": VOCAB}
    (folder / "config.json").write_text(json.dumps(cut))
    (folder / "tokenizer.json").write_text(json.dumps(first_tokens(json.loads((whole / "tokenizer.json").read_text()))))
    for name in ("tokenizer_config.json", "generation_config.json"):
        (folder / name).write_bytes((whole / name).read_bytes())
    weights = load_file(whole / "model.safetensors")
    save_file(
        {name: rows(name, value) for name, value in weights.items() if kept(name)},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def kept(name: str) -> bool:
    """Whether a tensor is outside the blocks, or in one of the first."""
    return not name.startswith("model.layers.") or int(name.split(".")[2]) < LAYERS


def rows(name: str, value: torch.Tensor) -> torch.Tensor:
    """A tensor, of one by tokens the first ones."""
    return value[:VOCAB].clone() if name in ("model.embed_tokens.weight", "lm_head.weight") else value


def first_tokens(tokenizer: dict[str, object]) -> dict[str, object]:
    """A byte-pair tokenizer with the tokens below `VOCAB`, and the merges that make them."""
    model = tokenizer["model"]
    assert isinstance(model, dict)
    vocabulary = {token: number for token, number in model["vocab"].items() if number < VOCAB}
    merges = [pair for pair in model["merges"] if "".join(pair) in vocabulary]
    return tokenizer | {"model": model | {"vocab": vocabulary, "merges": merges}}
