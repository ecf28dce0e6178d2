"""The families of models that this version knows, as data: names of tensors here and in GGUF, which linears read one
input, what can absorb a scale, what engines run as one matrix.

One table serves everybody: the planner and the GGUF writer take stored names from it, the solver learns which linears
share one Gram matrix. Mistral and Mixtral are written as GGUF architecture `llama`, as upstream does.

Gemma's norms multiply by 1 + w, and it has norms behind attention and feed-forward too; Phi-3 stores q, k, v as one
matrix and gate, up as another, value and up rows last; a mixture of experts has a feed-forward part per expert.

Not here: the groups and folds of one block of one model (blocks.py), what a given checkpoint holds (model.py), how
rows are permuted (formats/).
Sources: transformers 5.23 models/{llama,mistral,qwen2,qwen3,gemma2,gemma3,phi3,mixtral,qwen2_moe,qwen3_moe}/modeling_*;
llama.cpp gguf-py/gguf/tensor_mapping.py and conversion/{llama,qwen,gemma,phi}.py at build 11434.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Literal

from bitwright.core.errors import UnsupportedError, did_you_mean
from bitwright.core.plan import ExpertFacts

InputGroup = str  # attn_in, attn_out, mlp_in, mlp_out; of experts: shared_in, shared_out, routed, experts.7.in, …
AbsorberKind = Literal["norm", "rows", "heads"]

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
PHI3_LINEARS: dict[InputGroup, tuple[str, ...]] = LINEARS | {
    "attn_in": ("self_attn.qkv_proj",),
    "mlp_in": ("mlp.gate_up_proj",),
}
# What latent attention (latent_attention.py) has in the place of q, k and v
LATENT_LINEARS = ("self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj")
# A `rows` or `heads` absorber makes the inputs with its last rows: all of them, or the value and up part of a fused one
ABSORBERS: dict[InputGroup, tuple[str, AbsorberKind]] = {
    "attn_out": ("self_attn.v_proj", "heads"),
    "attn_in": ("input_layernorm", "norm"),
    "mlp_out": ("mlp.up_proj", "rows"),
    "mlp_in": ("post_attention_layernorm", "norm"),
}
GEMMA_ABSORBERS = ABSORBERS | {"mlp_in": ("pre_feedforward_layernorm", "norm")}
PHI3_ABSORBERS = ABSORBERS | {"attn_out": ("self_attn.qkv_proj", "heads"), "mlp_out": ("mlp.gate_up_proj", "rows")}

# Modules of a block that hold weights, in the order of the forward pass, and what GGUF calls them
_PROJECTIONS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
_QK_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_OUT = {"self_attn.o_proj": "attn_output"}
_BEFORE, _BETWEEN = {"input_layernorm": "attn_norm"}, {"post_attention_layernorm": "ffn_norm"}
_FEED_FORWARD = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_GEMMA_BETWEEN = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm"}
_GEMMA_AFTER = {"post_feedforward_layernorm": "post_ffw_norm"}
LLAMA_MODULES = _BEFORE | _PROJECTIONS | _OUT | _BETWEEN | _FEED_FORWARD
QWEN3_MODULES = _BEFORE | _PROJECTIONS | _QK_NORMS | _OUT | _BETWEEN | _FEED_FORWARD
GEMMA2_MODULES = _BEFORE | _PROJECTIONS | _OUT | _GEMMA_BETWEEN | _FEED_FORWARD | _GEMMA_AFTER
GEMMA3_MODULES = _BEFORE | _PROJECTIONS | _QK_NORMS | _OUT | _GEMMA_BETWEEN | _FEED_FORWARD | _GEMMA_AFTER
PHI3_MODULES = {
    **_BEFORE, "self_attn.qkv_proj": "attn_qkv", **_OUT, **_BETWEEN, "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}  # fmt: skip

_IN_BLOCK = re.compile(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)")
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(.+)")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ExpertNames:
    """Where a mixture of experts keeps its parts: `<block>.gate` is the router, `<block>.experts.<n>.<gate|up|down>`
    the experts. `shared`: an expert that sees every token, and its own gate."""

    block: str
    gate: str
    up: str
    down: str
    shared: bool = False

    @property
    def router(self) -> str:
        return f"{self.block}.gate"

    def expert(self, number: int) -> tuple[str, str, str]:
        """Modules gate, up and down of one expert."""
        prefix = f"{self.block}.experts.{number}."
        return prefix + self.gate, prefix + self.up, prefix + self.down

    def shared_expert(self) -> tuple[str, str, str]:
        """Modules gate, up and down of the shared expert."""
        prefix = f"{self.block}.shared_expert."
        return prefix + self.gate, prefix + self.up, prefix + self.down

    def modules(self, count: int) -> dict[str, str]:
        """All modules of the feed-forward part and their GGUF names, in the order of the forward pass."""
        kinds = ("ffn_gate", "ffn_up", "ffn_down")
        found: dict[str, str] = {}
        if self.shared:
            found |= {
                module: f"{kind}_shexp" for module, kind in zip(self.shared_expert(), kinds, strict=True)
            }  # fmt: skip
            found[f"{self.block}.shared_expert_gate"] = "ffn_gate_inp_shexp"
        found[self.router] = "ffn_gate_inp"
        for number in range(count):
            found |= {module: f"{kind}_exps" for module, kind in zip(self.expert(number), kinds, strict=True)}
        return found


MIXTRAL_EXPERTS = ExpertNames(block="block_sparse_moe", gate="w1", up="w3", down="w2")
QWEN2_EXPERTS = ExpertNames(block="mlp", gate="gate_proj", up="up_proj", down="down_proj", shared=True)
QWEN3_EXPERTS = ExpertNames(block="mlp", gate="gate_proj", up="up_proj", down="down_proj")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What sets one family apart. `biased` lists the modules of a block that carry a bias.

    `norm_offset` is what a norm adds to its weight, `tied` what an absent `tie_word_embeddings` means. `linears` and
    `absorbers` describe a dense block; in blocks with experts those of the feed-forward part come from `experts`.
    """

    name: str
    architecture: str
    gguf_architecture: str
    gguf_permutes_qk: bool = False
    biased: tuple[str, ...] = ()
    modules: Mapping[str, str] = dataclasses.field(default_factory=lambda: LLAMA_MODULES)
    linears: Mapping[InputGroup, tuple[str, ...]] = dataclasses.field(default_factory=lambda: LINEARS)
    absorbers: Mapping[InputGroup, tuple[str, AbsorberKind]] = dataclasses.field(default_factory=lambda: ABSORBERS)
    experts: ExpertNames | None = None
    activation: str = "silu"
    norm_offset: float = 0.0
    tied: bool = False

    def block_modules(self, layer: int = 0, experts: ExpertFacts | None = None) -> dict[str, str]:
        """Modules of a block that hold weights, in the order of the forward pass, and their GGUF names."""
        if self.experts is None or experts is None or layer in experts.dense_layers:
            return dict(self.modules)
        attention = {module: name for module, name in self.modules.items() if module not in _FEED_FORWARD}
        return attention | self.experts.modules(experts.count)

    def block_tensors(self, layer: int, experts: ExpertFacts | None = None) -> tuple[str, ...]:
        """Hugging Face names of all tensors of one block."""
        names = []
        for module in self.block_modules(layer, experts):
            names.append(f"{BLOCK.format(layer=layer)}{module}.weight")
            if module in self.biased:
                names.append(f"{BLOCK.format(layer=layer)}{module}.bias")
        return tuple(names)

    def all_tensors(self, layers: int, *, tied: bool, experts: ExpertFacts | None = None) -> tuple[str, ...]:
        """Hugging Face names of all tensors, in the order of the forward pass."""
        blocks = [name for layer in range(layers) for name in self.block_tensors(layer, experts)]
        return (EMBEDDING, *blocks, FINAL_NORM, *(() if tied else (HEAD,)))

    def gguf_module(self, module: str) -> str:
        """What GGUF calls a module of a block; all experts of one kind share a name."""
        if module in self.modules:
            return self.modules[module]
        assert self.experts is not None, f"no GGUF name for {module}"
        found = _EXPERT.fullmatch(module)
        return self.experts.modules(1)[f"{found[1]}.0.{found[3]}" if found else module]


FAMILIES = {
    family.name: family
    for family in (
        Family(name="llama", architecture="LlamaForCausalLM", gguf_architecture="llama", gguf_permutes_qk=True),
        Family(name="mistral", architecture="MistralForCausalLM", gguf_architecture="llama", gguf_permutes_qk=True),
        Family(name="qwen2", architecture="Qwen2ForCausalLM", gguf_architecture="qwen2", biased=LINEARS["attn_in"]),
        Family(name="qwen3", architecture="Qwen3ForCausalLM", gguf_architecture="qwen3", modules=QWEN3_MODULES),
        Family(
            name="gemma2", architecture="Gemma2ForCausalLM", gguf_architecture="gemma2", modules=GEMMA2_MODULES,
            absorbers=GEMMA_ABSORBERS, activation="gelu_pytorch_tanh", norm_offset=1.0, tied=True,
        ),
        Family(
            name="gemma3_text", architecture="Gemma3ForCausalLM", gguf_architecture="gemma3", modules=GEMMA3_MODULES,
            absorbers=GEMMA_ABSORBERS, activation="gelu_pytorch_tanh", norm_offset=1.0, tied=True,
        ),
        Family(
            name="phi3", architecture="Phi3ForCausalLM", gguf_architecture="phi3", modules=PHI3_MODULES,
            linears=PHI3_LINEARS, absorbers=PHI3_ABSORBERS,
        ),
        Family(
            name="mixtral", architecture="MixtralForCausalLM", gguf_architecture="llama", gguf_permutes_qk=True,
            experts=MIXTRAL_EXPERTS,
        ),
        Family(
            name="qwen2_moe", architecture="Qwen2MoeForCausalLM", gguf_architecture="qwen2moe",
            biased=LINEARS["attn_in"], experts=QWEN2_EXPERTS,
        ),
        Family(
            name="qwen3_moe", architecture="Qwen3MoeForCausalLM", gguf_architecture="qwen3moe", modules=QWEN3_MODULES,
            experts=QWEN3_EXPERTS,
        ),
    )
}  # fmt: skip
_QUANTIZED = frozenset(
    module for family in FAMILIES.values() for modules in family.linears.values() for module in modules
) | frozenset(LATENT_LINEARS)
_EXPERT_PARTS = frozenset(
    part for family in FAMILIES.values() if (names := family.experts) for part in (names.gate, names.up, names.down)
)


def family_of(architecture: str) -> Family:
    """The family whose class is `architecture`. Raises `UnsupportedError` with the list of known ones."""
    for family in FAMILIES.values():
        if family.architecture == architecture:
            return family
    known = [family.architecture for family in FAMILIES.values()]
    raise UnsupportedError(f"architecture `{architecture}` is not supported", hint=did_you_mean(architecture, known))


def layer_of(name: str) -> int | None:
    """Index of the block that holds a tensor, or `None` outside of blocks."""
    found = _IN_BLOCK.fullmatch(name)
    return int(found[1]) if found else None


def expert_of(name: str) -> int | None:
    """Number of the expert that holds a tensor or a module, or `None`."""
    found = _EXPERT.fullmatch(name)
    return int(found[2]) if found else None


def is_block_linear(name: str) -> bool:
    """Whether the tensor is the weight matrix of a linear inside a block. Routers are none: they stay as they are."""
    found = _IN_BLOCK.fullmatch(name)
    if found is None or found[3] != "weight":
        return False
    inside, _, part = found[2].rpartition(".")
    return found[2] in _QUANTIZED or (
        part in _EXPERT_PARTS
        and (inside.endswith((".shared_expert", ".shared_experts")) or expert_of(found[2]) is not None)
    )


def gguf_name(name: str, family: str = "llama") -> str:
    """The GGUF name of a Hugging Face tensor name.

    The matrices of all experts of a block lie in one tensor: expert 3 has the name of that tensor and `[3]`.
    """
    if name in GGUF_TOP:
        return GGUF_TOP[name]
    found = _IN_BLOCK.fullmatch(name)
    assert found is not None, f"no GGUF name for {name}"
    expert = expert_of(found[2])
    stored = f"{GGUF_BLOCK.format(layer=found[1])}{FAMILIES[family].gguf_module(found[2])}.{found[3]}"
    return stored if expert is None else f"{stored}[{expert}]"


def gguf_tensor(stored: str) -> str:
    """The tensor that a name of `gguf_name` is, or is a part of."""
    return stored.partition("[")[0]
