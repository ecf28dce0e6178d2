"""A GGUF file of random codes: an engine's speed depends on shapes and types, not on what the weights say.

All matrices have one type; norms are F32. The scales inside of blocks are small numbers, because random bytes would be
infinite now and then. Equal arguments give equal bytes.

Not here: real models (file.py). Source: block layouts of llama.cpp ggml/src/ggml-common.h.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

from bitwright.core.schemes import GGML_BLOCKS

SCALE_OFFSETS = {  # bytes at which a block has a float16
    "Q8_0": (0,), "Q6_K": (208,), "Q5_K": (0, 2), "Q4_K": (0, 2), "Q3_K": (108,), "Q2_K": (80, 82), "IQ4_XS": (0,),
    "IQ4_NL": (0,), "Q5_0": (0,), "Q5_1": (0, 2), "Q4_0": (0,), "Q4_1": (0, 2),
}  # fmt: skip
SCALE = np.float16(1e-4)
DEVIATION = np.float32(0.02)
SEED = 0
TOKEN, PIECE = "t{}", "th"


@dataclasses.dataclass(frozen=True, slots=True)
class RandomShape:
    """Dimensions of a Llama model with an untied head. Inputs of matrices are multiples of 256."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    kv_heads: int
    vocab: int = 4096
    context: int = 8192

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def block_weights(self) -> int:
        """Weights of the matrices of all blocks."""
        return sum(rows * columns for rows, columns in self._matrices().values()) * self.blocks

    @property
    def head_weights(self) -> int:
        """Weights of the output head."""
        return self.vocab * self.hidden

    def _matrices(self) -> dict[str, tuple[int, int]]:
        keys = self.head_dim * self.kv_heads
        return {
            "attn_q": (self.hidden, self.hidden),
            "attn_k": (keys, self.hidden),
            "attn_v": (keys, self.hidden),
            "attn_output": (self.hidden, self.hidden),
            "ffn_gate": (self.intermediate, self.hidden),
            "ffn_up": (self.intermediate, self.hidden),
            "ffn_down": (self.hidden, self.intermediate),
        }

    def matrices(self) -> dict[str, tuple[int, int]]:
        """Rows and columns of every matrix by its name in the file."""
        inner = self._matrices()
        blocks = {f"blk.{number}.{name}": shape for number in range(self.blocks) for name, shape in inner.items()}
        return {"token_embd": (self.vocab, self.hidden), **blocks, "output": (self.vocab, self.hidden)}


def write_random(path: Path, shape: RandomShape, type: str) -> None:
    """Write the file. `type` is F16 or one of SCALE_OFFSETS."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(shape.blocks)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.intermediate)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head_dim)
    _add_vocabulary(writer, shape.vocab)
    generator = np.random.default_rng(SEED)
    kind = gguf.GGMLQuantizationType[type]
    for name, (rows, columns) in shape.matrices().items():
        data = _values(generator, rows, columns) if type == "F16" else random_blocks(generator, rows, columns, type)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)
    norms = [f"blk.{number}.{name}_norm" for number in range(shape.blocks) for name in ("attn", "ffn")]
    for name in [*norms, "output_norm"]:
        writer.add_tensor(f"{name}.weight", np.ones(shape.hidden, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(generator: np.random.Generator, rows: int, columns: int, type: str) -> NDArray[np.uint8]:
    """Rows of blocks with random codes under small scales."""
    elements, size = GGML_BLOCKS[type]
    blocks = generator.integers(0, 256, (rows * columns // elements, size), dtype=np.uint8)
    for offset in SCALE_OFFSETS[type]:
        blocks[:, offset : offset + 2] = np.frombuffer(SCALE.tobytes(), dtype=np.uint8)
    return blocks.reshape(rows, columns // elements * size)


def _values(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.float16]:
    return (generator.standard_normal((rows, columns), dtype=np.float32) * DEVIATION).astype(np.float16)


def _add_vocabulary(writer: gguf.GGUFWriter, count: int) -> None:
    """Words without a meaning, and the one merge that llama.cpp insists on."""
    tokens = ["t", "h", PIECE, *(TOKEN.format(number) for number in range(count - 3))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * count)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(3)
    writer.add_eos_token_id(4)
