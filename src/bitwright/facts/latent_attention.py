"""DeepSeek-V3 by its dimensions: multi-head latent attention and many experts. Planned and predicted, not quantized.

Queries, and keys with values, each pass through a narrow matrix; what is kept of a token is that latent and a rotary
part. The first blocks are dense, the others have experts and one expert that sees every token.

Not here: what is kept of each token (cache_layout.py), the families that are quantized (families.py).
Source: transformers 5.23, models/deepseek_v3/{configuration,modeling}_deepseek_v3.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from bitwright.core.plan import ExpertFacts, ModelFacts
from bitwright.facts.families import EMBEDDING, FINAL_NORM, HEAD, Family
from bitwright.facts.model import bare_facts

LATENT_ATTENTION = "DeepseekV3ForCausalLM"
FAMILY = Family(name="deepseek_v3", architecture=LATENT_ATTENTION, gguf_architecture="deepseek2")


def latent_facts(config: dict[str, Any], where: Path) -> ModelFacts:
    """Dimensions and experts; `head_dim` is that of a value, queries and keys are wider."""
    bare = bare_facts(config | {"head_dim": config["v_head_dim"]}, FAMILY, where)
    experts = ExpertFacts(
        count=config["n_routed_experts"],
        per_token=config["num_experts_per_tok"],
        intermediate=config["moe_intermediate_size"],
        shared_intermediate=config["n_shared_experts"] * config["moe_intermediate_size"],
        dense_layers=tuple(range(config["first_k_dense_replace"])),
    )
    return msgspec.structs.replace(bare, experts=experts)


def latent_shapes(facts: ModelFacts, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor with its shape, in the order of the forward pass; experts as in stacks.py."""
    assert facts.experts is not None
    query, latent = config["q_lora_rank"], config["kv_lora_rank"]
    plain, rotary, value = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
    hidden, heads = facts.hidden, facts.heads
    attention: dict[str, tuple[int, ...]] = {
        "input_layernorm": (hidden,),
        "self_attn.q_a_proj": (query, hidden),
        "self_attn.q_a_layernorm": (query,),
        "self_attn.q_b_proj": (heads * (plain + rotary), query),
        "self_attn.kv_a_proj_with_mqa": (latent + rotary, hidden),
        "self_attn.kv_a_layernorm": (latent,),
        "self_attn.kv_b_proj": (heads * (plain + value), latent),
        "self_attn.o_proj": (hidden, heads * value),
        "post_attention_layernorm": (hidden,),
    }
    experts = facts.experts
    dense = _feed_forward("mlp", (), facts.intermediate, hidden)
    sparse: dict[str, tuple[int, ...]] = {
        "mlp.gate": (experts.count, hidden),
        **_feed_forward("mlp.experts.0", (experts.count,), experts.intermediate, hidden),
        **_feed_forward("mlp.shared_experts", (), experts.shared_intermediate, hidden),
    }
    shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (facts.vocab, hidden)}
    for layer in range(facts.layers):
        modules = attention | (dense if layer in experts.dense_layers else sparse)
        shapes |= {f"model.layers.{layer}.{module}.weight": shape for module, shape in modules.items()}
        if layer not in experts.dense_layers:
            shapes[f"model.layers.{layer}.mlp.gate.e_score_correction_bias"] = (experts.count,)
    return shapes | {FINAL_NORM: (hidden,), HEAD: (facts.vocab, hidden)}


def _feed_forward(prefix: str, outer: tuple[int, ...], width: int, hidden: int) -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}.gate_proj": (*outer, width, hidden),
        f"{prefix}.up_proj": (*outer, width, hidden),
        f"{prefix}.down_proj": (*outer, hidden, width),
    }
