"""Two-block Llama models in memory, answering as `WeightSource`, and texts for them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bitwright.calibration.corpora import TokenWindows
from bitwright.core.plan import ModelFacts

VOCAB = 61


class DictSource:
    """State dict and config of a transformers model."""

    def __init__(self, weights: dict[str, torch.Tensor], config: dict[str, Any], path: str, **facts: Any) -> None:
        self.weights = weights
        self.config = config
        self.facts = _facts(config, path, **facts)

    def names(self) -> list[str]:
        return list(self.weights)

    def load(self, name: str) -> torch.Tensor:
        return self.weights[name]


def config(layers: int = 2, hidden: int = 32) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"], "hidden_size": hidden, "num_hidden_layers": layers,
        "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCAB,
        "max_position_embeddings": 128, "tie_word_embeddings": False,
    }  # fmt: skip


def whole_model(seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    """A model with confident predictions, so that KL is not that of near-uniform distributions."""
    torch.manual_seed(seed)
    settings = {key: value for key, value in config(layers).items() if key != "model_type"}
    model = LlamaForCausalLM(LlamaConfig(**settings, attn_implementation="eager")).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.mul_(12.0)
    return model


def source(model: LlamaForCausalLM, path: str = "original", *, noise: float = 0.0, **facts: Any) -> DictSource:
    """The model's weights, with relative Gaussian noise on matrices inside blocks."""
    generator = torch.Generator().manual_seed(7)
    weights = {}
    for name, weight in model.state_dict().items():
        shaken = noise * weight.std() * torch.randn(weight.shape, generator=generator) if "proj" in name else 0.0
        weights[name] = weight.clone() + shaken
    return DictSource(weights, config(model.config.num_hidden_layers), path, **facts)


def text(name: str = "prose", windows: int = 12, length: int = 32, seed: int = 3) -> TokenWindows:
    tokens = torch.randint(0, VOCAB, (windows, length), generator=torch.Generator().manual_seed(seed))
    return TokenWindows(name, tokens, hashlib.sha256(tokens.numpy().tobytes()).hexdigest())


def _facts(settings: dict[str, Any], path: str, **overrides: Any) -> ModelFacts:
    values: dict[str, Any] = {
        "path": path, "architecture": "LlamaForCausalLM", "family": "llama", "layers": settings["num_hidden_layers"],
        "hidden": settings["hidden_size"], "intermediate": settings["intermediate_size"], "heads": 4, "kv_heads": 2,
        "head_dim": 8, "vocab": settings["vocab_size"], "context": 128, "tied": False, "parameters": 0, "bytes": 0,
        "dtype": "F32", "tensors": (), "fingerprint": "f" * 64,
    }  # fmt: skip
    return ModelFacts(**(values | overrides))
