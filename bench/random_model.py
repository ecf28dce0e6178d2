"""Write a random checkpoint in the shape of Llama-3.1-8B, shard by shard, a few rows at a time.

Weights are normal with a deviation of 0.02, norms are one, all bfloat16; the head is not tied. The tokenizer knows the
bytes only, so any text can be read. The same seed and number of blocks give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ROWS = 2048  # written at a time
SHARD_BYTES = 5 * 10**9
DEVIATION = 0.02
BEGIN, END = "<|begin_of_text|>", "<|end_of_text|>"


@dataclass(frozen=True)
class Shape:
    """Dimensions of a Llama model."""

    hidden: int = 4096
    intermediate: int = 14336
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    vocab: int = 128256

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every tensor under its Hugging Face name, in the order in which a model is walked."""
        keys = self.hidden // self.heads * self.kv_heads
        inner = {
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.k_proj": (keys, self.hidden),
            "self_attn.v_proj": (keys, self.hidden),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "mlp.gate_proj": (self.intermediate, self.hidden),
            "mlp.up_proj": (self.intermediate, self.hidden),
            "mlp.down_proj": (self.hidden, self.intermediate),
        }
        found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}."
            found[f"{prefix}input_layernorm.weight"] = (self.hidden,)
            found[f"{prefix}post_attention_layernorm.weight"] = (self.hidden,)
            found |= {f"{prefix}{module}.weight": shape for module, shape in inner.items()}
        return found | {"model.norm.weight": (self.hidden,), "lm_head.weight": (self.vocab, self.hidden)}

    def config(self) -> dict[str, object]:
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
            "hidden_size": self.hidden, "intermediate_size": self.intermediate, "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads, "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden // self.heads, "vocab_size": self.vocab, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "attention_bias": False, "mlp_bias": False,
            "bos_token_id": 0, "eos_token_id": 1, "dtype": "bfloat16",
            "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
        }  # fmt: skip


def write_model(folder: Path, shape: Shape, *, seed: int = 0) -> int:
    """Write the checkpoint, unless it is there, and return its number of weights."""
    tensors = shape.tensors()
    if not (folder / "model.safetensors.index.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(shape.config(), indent=2))
        write_tokenizer(folder)
        files = list(shards(tensors))
        generator = np.random.Generator(np.random.SFC64(seed))
        index: dict[str, str] = {}
        for number, names in enumerate(files, 1):
            file = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            with open(folder / file, "wb") as handle:
                write_shard(handle, {name: tensors[name] for name in names}, generator)
            index |= dict.fromkeys(names, file)
        total = 2 * sum(math.prod(dims) for dims in tensors.values())
        document = {"metadata": {"total_size": total}, "weight_map": index}
        (folder / "model.safetensors.index.json").write_text(json.dumps(document))
    return sum(math.prod(dims) for dims in tensors.values())


def shards(tensors: dict[str, tuple[int, ...]]) -> Iterator[list[str]]:
    """Names by file, each of at most `SHARD_BYTES`."""
    names: list[str] = []
    size = 0
    for name, dims in tensors.items():
        if names and size + 2 * math.prod(dims) > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * math.prod(dims)
    yield names


def write_shard(handle: IO[bytes], tensors: dict[str, tuple[int, ...]], generator: np.random.Generator) -> None:
    """Header and weights of one file."""
    header, at = {}, 0
    for name, dims in tensors.items():
        end = at + 2 * math.prod(dims)
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    handle.write(len(text).to_bytes(8, "little") + text)
    for dims in tensors.values():
        if len(dims) == 1:
            handle.write(bfloat16(np.ones(dims, dtype=np.float32)))
            continue
        for first in range(0, dims[0], ROWS):
            rows = min(ROWS, dims[0] - first)
            handle.write(bfloat16(generator.standard_normal((rows, dims[1]), dtype=np.float32) * np.float32(DEVIATION)))


def bfloat16(values: np.ndarray) -> bytes:
    """Little-endian, cut off: these are random numbers."""
    return (values.view("<u4") >> 16).astype("<u2").tobytes()


def write_tokenizer(folder: Path) -> None:
    """Byte-level BPE without merges, split like SmolLM's so that GGUF has a name for it."""
    tokens = [BEGIN, END, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BEGIN, END])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(write_model(arguments.folder, Shape(layers=arguments.layers), seed=arguments.seed), "weights")


if __name__ == "__main__":
    main()
