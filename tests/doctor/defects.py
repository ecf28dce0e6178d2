"""Thirty-two defects, each a small edit of a sound artifact as it has happened to somebody.

`where` is what a diagnosis must name first, a tensor under its Hugging Face name or a setting; `rules` are the names
that fit it. Not here: the artifacts (artifacts.py), the edits' tools (edits.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from doctor import edits
from doctor.artifacts import edit_config
from doctor.edits import Tensors

Q8, Q4K, Q6K = 34, 144, 210  # bytes of a block
BLOCK = "model.layers.{}."
ATTENTION, FEED = BLOCK + "self_attn.{}_proj", BLOCK + "mlp.{}_proj"
TEMPLATE = "{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
ORDER = [0, 2, 4, 6, 1, 3, 5, 7]  # of AWQ's nibbles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Defect:
    """One edit. `seen` says where such a thing happened."""

    name: str
    base: str
    edit: Callable[[Path], None]
    where: str
    rules: tuple[str, ...]
    seen: str


def _nan(values: np.ndarray) -> None:
    values[7, 0:2] = np.frombuffer(np.float16("nan").tobytes(), dtype=np.uint8)


def _infinite(values: np.ndarray) -> None:
    values[5, -2:] = np.frombuffer(np.float16("inf").tobytes(), dtype=np.uint8)


def _nibbles(values: np.ndarray) -> None:
    values[:, 16:] = edits.swap_nibbles(values[:, 16:])


def _hole(values: np.ndarray) -> None:
    values.reshape(-1)[8192 : 8192 + 4096] = 0


def _swap(*values: np.ndarray) -> None:
    half = len(values) // 2
    for one, other in zip(values[:half], values[half:], strict=True):
        kept = one.copy()
        one[:] = other
        other[:] = kept


def _blocks_of(layer: int) -> list[str]:
    parts = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
    return [f"blk.{layer}.{part}.weight" for part in parts]


def _set(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def edit(held: Tensors) -> None:
        held[name] = change(held[name].clone())

    return edits.tensors(edit)


def _transposed_tile(codes: torch.Tensor) -> torch.Tensor:
    codes[128:256, 256:384] = codes[128:256, 256:384].clone().T
    return codes


def _zero_head(codes: torch.Tensor) -> torch.Tensor:
    codes[64:128] = 0
    return codes


def _shuffled(groups: torch.Tensor) -> torch.Tensor:
    return groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(5))]


def _plus_one(zeros: torch.Tensor) -> torch.Tensor:
    """One step more in every nibble that is not full."""
    raw = zeros.numpy().view(np.uint32)
    for shift in range(0, 32, 4):
        raw += np.where(raw >> np.uint32(shift) & 15 < 15, np.uint32(1 << shift), np.uint32(0)).astype(np.uint32)
    return torch.from_numpy(raw.view(np.int32))


def _in_sequence(words: torch.Tensor) -> torch.Tensor:
    """Eight outputs of a word packed one after another instead of interleaved."""
    raw = words.numpy().view(np.uint32)
    nibbles = [raw >> np.uint32(4 * place) & 15 for place in range(8)]
    outputs = {output: nibbles[place] for place, output in enumerate(ORDER)}
    packed = sum((outputs[place] << np.uint32(4 * place)).astype(np.uint32) for place in range(8))
    return torch.from_numpy(np.asarray(packed, dtype=np.uint32).view(np.int32))


def _other_codes(codes: torch.Tensor) -> torch.Tensor:
    """Codes of normal weights that are nobody's."""
    generator = torch.Generator().manual_seed(11)
    levels = (8 + 3.2 * torch.randn(2, *codes.shape, generator=generator)).clamp(0, 15).to(torch.uint8)
    return levels[0] << 4 | levels[1]


def _own_head(folder: Path) -> None:
    """An lm_head that was never trained, beside an embedding that is tied."""
    edit_config(folder, tie_word_embeddings=False)

    def add(held: Tensors) -> None:
        table = held["model.embed_tokens.weight"]
        head = torch.randn(table.shape, generator=torch.Generator().manual_seed(2)) * 0.02
        held["lm_head.weight"] = head.to(table.dtype)

    edits.tensors(add)(folder)


def _without(name: str) -> Callable[[Path], None]:
    return edits.tensors(lambda held: save_nothing(held.pop(name)))


def save_nothing(_: torch.Tensor) -> None:
    """What was taken out is not kept."""


def _fewer_tokens(tokenizer: dict) -> None:
    vocabulary = tokenizer["model"]["vocab"]
    kept = {token: number for token, number in vocabulary.items() if number < len(vocabulary) - 100}
    tokenizer["model"]["vocab"] = kept
    tokenizer["model"]["merges"] = [pair for pair in tokenizer["model"]["merges"] if "".join(pair) in kept]


def _config(**changes: object) -> Callable[[Path], None]:
    return lambda folder: edit_config(folder, **changes)


def _quantization(**changes: object) -> Callable[[Path], None]:
    return edits.json_file("config.json", lambda config: config["quantization_config"].update(changes))


DEFECTS = (
    Defect(
        name="nibbles of Q4_K exchanged", base="Q4_K_M", where=FEED.format(0, "up") + ".weight", rules=("nibbles",),
        edit=edits.blocks("blk.0.ffn_up.weight", size=Q4K, change=_nibbles), seen="imp#722",
    ),
    Defect(
        name="one NaN scale", base="Q8_0", where=ATTENTION.format(1, "q") + ".weight",
        rules=("unreadable", "not-finite"),
        edit=edits.blocks("blk.1.attn_q.weight", size=Q8, change=_nan), seen="compressed-tensors#832",
    ),
    Defect(
        name="one infinite scale", base="Q6_K", where=ATTENTION.format(0, "v") + ".weight",
        rules=("unreadable", "not-finite"),
        edit=edits.blocks("blk.0.attn_v.weight", size=Q6K, change=_infinite), seen="compressed-tensors#832",
    ),
    Defect(
        name="rows of q not interleaved", base="Q8_0", where=ATTENTION.format(0, "q") + ".weight",
        rules=("rotary-order",),
        edit=edits.rows_in_order("blk.0.attn_q.weight", 12, Q8), seen="llama.cpp#22611",
    ),
    Defect(
        name="rows of k not interleaved", base="Q8_0", where=ATTENTION.format(1, "k") + ".weight",
        rules=("rotary-order",),
        edit=edits.rows_in_order("blk.1.attn_k.weight", 4, Q8), seen="llama.cpp#3364",
    ),
    Defect(
        name="4 KiB lost", base="Q4_K_M", where=FEED.format(0, "gate") + ".weight", rules=("damaged", "zero-rows"),
        edit=edits.blocks("blk.0.ffn_gate.weight", size=Q4K, change=_hole), seen="AutoAWQ#498",
    ),
    Defect(
        name="rotary base of a default", base="Q6_K", where="rope_parameters.rope_theta", rules=("rope",),
        edit=edits.key("llama.rope.freq_base", 10000.0), seen="ollama#2379",
    ),
    Defect(
        name="epsilon of norms", base="Q8_0", where="rms_norm_eps", rules=("norm-epsilon",),
        edit=edits.key("llama.attention.layer_norm_rms_epsilon", 1e-5), seen="llama.cpp#2373",
    ),
    Defect(
        name="template of another model", base="Q5_K_M", where="tokenizer.chat_template", rules=("chat-template",),
        edit=edits.key("tokenizer.chat_template", TEMPLATE), seen="textgen#7179",
    ),
    Defect(
        name="end of text of the base model", base="Q5_K_M", where="tokenizer.ggml.eos_token_id",
        rules=("special-token",), edit=edits.key("tokenizer.ggml.eos_token_id", 0), seen="llama.cpp#6745",
    ),
    Defect(
        name="another pre-tokenizer", base="IQ4_XS", where="tokenizer.ggml.pre", rules=("pre-tokenizer",),
        edit=edits.key("tokenizer.ggml.pre", "qwen2"), seen="llama.cpp#7476",
    ),
    Defect(
        name="gate and up exchanged", base="Q8_0", where=FEED.format(1, "gate") + ".weight", rules=("swapped",),
        edit=edits.blocks("blk.1.ffn_gate.weight", "blk.1.ffn_up.weight", size=Q8, change=_swap), seen="sglang#9661",
    ),
    Defect(
        name="two blocks exchanged", base="Q8_0", where=ATTENTION.format(0, "q") + ".weight", rules=("swapped",),
        edit=edits.blocks(*_blocks_of(0), *_blocks_of(1), size=Q8, change=_swap), seen="gguf-py tensor_mapping.py",
    ),
    Defect(
        name="a head beside a tied embedding", base="W8A16", where="lm_head.weight", rules=("head",),
        edit=_own_head, seen="sglang#2935",
    ),
    Defect(
        name="scales of the next group", base="W4A16", where=FEED.format(0, "down") + ".weight", rules=("group-scale",),
        edit=_set(FEED.format(0, "down") + ".weight_scale", lambda scale: scale.roll(1, dims=1)), seen="vllm#47116",
    ),
    Defect(
        name="scales halved", base="W4A16", where=ATTENTION.format(1, "v") + ".weight", rules=("factor",),
        edit=_set(ATTENTION.format(1, "v") + ".weight_scale", lambda scale: scale / 2), seen="modular#6600",
    ),
    Defect(
        name="scales of the other sign", base="W4A16", where=ATTENTION.format(0, "k") + ".weight", rules=("sign",),
        edit=_set(ATTENTION.format(0, "k") + ".weight_scale", lambda scale: -scale), seen="GPTQModel#2352",
    ),
    Defect(
        name="a block transposed", base="FP8", where=ATTENTION.format(0, "o") + ".weight", rules=("transposed-block",),
        edit=_set(ATTENTION.format(0, "o") + ".weight", _transposed_tile), seen="vllm#47116",
    ),
    Defect(
        name="a head of zeros", base="FP8", where=ATTENTION.format(1, "q") + ".weight", rules=("zero-head",),
        edit=_set(ATTENTION.format(1, "q") + ".weight", _zero_head), seen="slices of a parallel save",
    ),
    Defect(
        name="scale of keys inverted", base="W4A16", where="model.layers.1.self_attn.k_scale", rules=("cache-scale",),
        edit=_set("model.layers.1.self_attn.k_scale", lambda scale: 1 / scale), seen="sglang#20705",
    ),
    Defect(
        name="rotary scaling added", base="FP8", where="rope_parameters.rope_type", rules=("rope",),
        edit=_config(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 100000.0}),
        seen="llama.cpp#2772",
    ),
    Defect(
        name="another activation", base="NF4", where="hidden_act", rules=("constant",),
        edit=_config(hidden_act="gelu"), seen="candle#3745",
    ),
    Defect(
        name="vocabulary cut short", base="AWQ", where="tokenizer.json", rules=("vocabulary",),
        edit=edits.json_file("tokenizer.json", _fewer_tokens), seen="llama.cpp#2914",
    ),
    Defect(
        name="version 1 taken for version 2", base="GPTQ", where="quantization_config.checkpoint_format",
        rules=("zero-point", "zero-point-version"), edit=_quantization(checkpoint_format="gptq_v2"), seen="vllm#38966",
    ),
    Defect(
        name="order of columns lost", base="GPTQ", where=ATTENTION.format(0, "q") + ".weight", rules=("group-order",),
        edit=_set(ATTENTION.format(0, "q") + ".g_idx", _shuffled), seen="llm-compressor#3038",
    ),
    Defect(
        name="group size of another artifact", base="GPTQ", where="quantization_config.group_size",
        rules=("quantization-config",), edit=_quantization(group_size=128), seen="vLLM, gptq_marlin.py",
    ),
    Defect(
        name="a bias forgotten", base="GPTQ", where=ATTENTION.format(1, "q") + ".bias", rules=("missing-tensor",),
        edit=_without(ATTENTION.format(1, "q") + ".bias"), seen="ANEForge#253",
    ),
    Defect(
        name="zero points one too high", base="AWQ", where=FEED.format(1, "gate") + ".weight", rules=("zero-point",),
        edit=_set(FEED.format(1, "gate") + ".qzeros", _plus_one), seen="GPTQModel#2350",
    ),
    Defect(
        name="words packed in sequence", base="AWQ", where=FEED.format(0, "up") + ".weight", rules=("nibbles",),
        edit=_set(FEED.format(0, "up") + ".qweight", _in_sequence), seen="Quark#30",
    ),
    Defect(
        name="nibbles of NF4 exchanged", base="NF4", where=ATTENTION.format(0, "o") + ".weight", rules=("nibbles",),
        edit=_set(ATTENTION.format(0, "o") + ".weight", lambda codes: codes >> 4 | codes << 4), seen="imp#722",
    ),
    Defect(
        name="a matrix of another model", base="NF4", where=FEED.format(1, "down") + ".weight", rules=("unrelated",),
        edit=_set(FEED.format(1, "down") + ".weight", _other_codes), seen="AutoAWQ#498",
    ),
    Defect(
        name="scales of the next row", base="INT8", where=FEED.format(1, "up") + ".weight", rules=("group-scale",),
        edit=_set(FEED.format(1, "up") + ".SCB", lambda scale: scale.roll(1)), seen="pie#491",
    ),
)  # fmt: skip
