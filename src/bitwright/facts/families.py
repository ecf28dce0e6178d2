"""The families of models that this version knows: names of their tensors, here and in GGUF.

One table serves everybody: the planner and the GGUF writer take stored names from it, the solver learns which linears
read the same input (and so share one Gram matrix). Mistral is written as GGUF architecture `llama`, as upstream does.

Not here: what a given checkpoint holds (model.py), how rows are permuted (formats/).
Sources: transformers models/{llama,mistral,qwen2,qwen3}/modeling_*.py; llama.cpp gguf-py/gguf/tensor_mapping.py and
conversion/{llama,qwen}.py at build 11434.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from bitwright.core.errors import UnsupportedError, did_you_mean

InputGroup = Literal["attn_in", "attn_out", "mlp_in", "mlp_out"]

EMBEDDING = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
HEAD = "lm_head.weight"
BLOCK = "model.layers.{layer}."
GGUF_BLOCK = "blk.{layer}."
GGUF_TOP = {EMBEDDING: "token_embd.weight", FINAL_NORM: "output_norm.weight", HEAD: "output.weight"}
LINEARS: dict[InputGroup, tuple[str, ...]] = {
    "attn_in": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attn_out": ("self_attn.o_proj",),
    "mlp_in": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp_out": ("mlp.down_proj",),
}
GGUF_IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_IN_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What sets one family apart. `biased` lists the modules of a block that carry a bias."""

    name: str
    architecture: str
    gguf_architecture: str
    gguf_permutes_qk: bool
    biased: tuple[str, ...] = ()
    qk_norm: bool = False

    def block_modules(self) -> tuple[str, ...]:
        """Modules of a block that hold weights, in the order of the forward pass."""
        norms = ("self_attn.q_norm", "self_attn.k_norm")
        return tuple(module for module in GGUF_IN_BLOCK if self.qk_norm or module not in norms)

    def block_tensors(self, layer: int) -> tuple[str, ...]:
        """Hugging Face names of all tensors of one block."""
        names = []
        for module in self.block_modules():
            names.append(f"{BLOCK.format(layer=layer)}{module}.weight")
            if module in self.biased:
                names.append(f"{BLOCK.format(layer=layer)}{module}.bias")
        return tuple(names)

    def all_tensors(self, layers: int, *, tied: bool) -> tuple[str, ...]:
        """Hugging Face names of all tensors, in the order of the forward pass."""
        blocks = [name for layer in range(layers) for name in self.block_tensors(layer)]
        return (EMBEDDING, *blocks, FINAL_NORM, *(() if tied else (HEAD,)))


FAMILIES = {
    family.name: family
    for family in (
        Family(name="llama", architecture="LlamaForCausalLM", gguf_architecture="llama", gguf_permutes_qk=True),
        Family(name="mistral", architecture="MistralForCausalLM", gguf_architecture="llama", gguf_permutes_qk=True),
        Family(
            name="qwen2", architecture="Qwen2ForCausalLM", gguf_architecture="qwen2", gguf_permutes_qk=False,
            biased=LINEARS["attn_in"],
        ),
        Family(
            name="qwen3", architecture="Qwen3ForCausalLM", gguf_architecture="qwen3", gguf_permutes_qk=False,
            qk_norm=True,
        ),
    )
}  # fmt: skip


def family_of(architecture: str) -> Family:
    """The family whose class is `architecture`. Raises `UnsupportedError` with the list of known ones."""
    for family in FAMILIES.values():
        if family.architecture == architecture:
            return family
    known = [family.architecture for family in FAMILIES.values()]
    raise UnsupportedError(f"architecture `{architecture}` is not supported", hint=did_you_mean(architecture, known))


def block_linears() -> tuple[str, ...]:
    """The quantized modules of a block, by input group."""
    return tuple(module for modules in LINEARS.values() for module in modules)


def layer_of(name: str) -> int | None:
    """Index of the block that holds a tensor, or `None` outside of blocks."""
    found = _IN_BLOCK.fullmatch(name)
    return int(found[1]) if found else None


def is_block_linear(name: str) -> bool:
    """Whether the tensor is the weight matrix of a linear inside a block."""
    found = _IN_BLOCK.fullmatch(name)
    return found is not None and found[3] == "weight" and found[2] in block_linears()


def gguf_name(name: str) -> str:
    """The GGUF name of a Hugging Face tensor name."""
    if name in GGUF_TOP:
        return GGUF_TOP[name]
    found = _IN_BLOCK.fullmatch(name)
    assert found is not None, f"no GGUF name for {name}"
    return f"{GGUF_BLOCK.format(layer=found[1])}{GGUF_IN_BLOCK[found[2]]}.{found[3]}"
