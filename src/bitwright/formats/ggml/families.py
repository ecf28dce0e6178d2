"""What single families add to a GGUF file's keys: sliding windows, caps, a second rotary base, experts.

llama.cpp fixes some things that a config can say otherwise: the scale of Gemma's attention scores, whether the shares
of a token's experts are made to sum to one, that every block has experts. A model that departs from them is refused,
because the file would load and compute something else. Phi-3's sliding window is written and not obeyed by llama.cpp.

Not here: dimensions and rotary scaling, which all share (metadata.py).
Sources: llama.cpp conversion/{gemma,phi,qwen,base}.py; src/models/{gemma2,gemma3,phi3,qwen2moe,qwen3moe,llama}.cpp
(load_arch_hparams, norm_w of build_moe_ffn) at build 11434.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gguf

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import ExpertFacts, ModelFacts

GEMMAS = ("gemma2", "gemma3_text")
PERIODS = {"gemma2": 2, "gemma3_text": 6}  # every so many blocks one sees all, unless the file says otherwise
WINDOWS = {"gemma2": 4096, "gemma3_text": 4096}  # transformers' defaults
LOCAL_BASE = 10000.0
SHARES_SUM_TO_ONE = {"mixtral": True, "qwen2_moe": False, "qwen3_moe": True}
SLIDING, FULL = "sliding_attention", "full_attention"
WIDEST_GEMMAS = {"gemma2": 46, "gemma3_text": 62}  # blocks of the 27B models, whose scores are scaled in another way


def add_family_keys(writer: gguf.GGUFWriter, facts: ModelFacts, config: Mapping[str, Any]) -> None:
    """Write what this family needs. Raises `UnsupportedError` where llama.cpp would compute something else."""
    if facts.experts is not None:
        _add_experts(writer, facts, facts.experts, config)
    if facts.family == "phi3":
        if facts.heads * facts.head_dim != facts.hidden:
            raise _departs(facts, f"heads of {facts.head_dim} channels that do not fill {facts.hidden}")
        writer.add_rope_scaling_orig_ctx_len(int(config.get("original_max_position_embeddings", 4096)))
        writer.add_sliding_window(int(config.get("sliding_window") or 0))
    if facts.family in GEMMAS:
        _add_gemma(writer, facts, config)


def _add_experts(writer: gguf.GGUFWriter, facts: ModelFacts, experts: ExpertFacts, config: Mapping[str, Any]) -> None:
    if experts.dense_layers:
        raise _departs(facts, f"a block without experts ({experts.dense_layers[0]})")
    one = SHARES_SUM_TO_ONE[facts.family]
    if facts.family != "mixtral" and bool(config.get("norm_topk_prob", False)) != one:
        raise _departs(facts, f"norm_topk_prob {not one}")
    writer.add_expert_count(experts.count)
    writer.add_expert_used_count(experts.per_token)
    if facts.family != "mixtral":
        writer.add_expert_feed_forward_length(experts.intermediate)
    if experts.shared_intermediate:
        writer.add_expert_shared_feed_forward_length(experts.shared_intermediate)


def _add_gemma(writer: gguf.GGUFWriter, facts: ModelFacts, config: Mapping[str, Any]) -> None:
    two = facts.family == "gemma2"
    widest = facts.layers == WIDEST_GEMMAS[facts.family]
    scale = facts.hidden // facts.heads if widest else facts.head_dim
    if int(config.get("query_pre_attn_scalar", 256)) != scale:
        raise _departs(facts, f"query_pre_attn_scalar {config.get('query_pre_attn_scalar', 256)}")
    writer.add_sliding_window(int(config.get("sliding_window") or WINDOWS[facts.family]))
    types = config.get("layer_types")
    if types and types != _layer_types(facts.layers, PERIODS[facts.family]):
        writer.add_sliding_window_pattern([kind == SLIDING for kind in types])
    elif not types and config.get("sliding_window_pattern") not in (None, PERIODS[facts.family]):
        writer.add_sliding_window_pattern(int(config["sliding_window_pattern"]))
    cap = config.get("attn_logit_softcapping", 50.0 if two else None)
    if bool(cap) != two:
        raise _departs(facts, f"attn_logit_softcapping {cap}")
    if two:
        writer.add_attn_logit_softcapping(float(cap))
    if final := config.get("final_logit_softcapping", 30.0 if two else None):
        writer.add_final_logit_softcapping(float(final))
    if not two:
        nested = (config.get("rope_parameters") or {}).get(SLIDING) or {}
        writer.add_rope_freq_base_swa(float(nested.get("rope_theta", config.get("rope_local_base_freq", LOCAL_BASE))))


def family_config(
    family: str, need: Callable[[str], Any], metadata: Mapping[str, Any], arch: str, rope: dict[str, Any], layers: int
) -> dict[str, Any]:
    """The keys of `config.json` that only this family has, from GGUF keys. `need` raises on an absent one."""

    def may(key: str, otherwise: Any = None) -> Any:
        return metadata.get(f"{arch}.{key}", otherwise)

    if family == "mixtral":
        return {"num_local_experts": int(need("expert_count")), "num_experts_per_tok": int(need("expert_used_count"))}
    if family in SHARES_SUM_TO_ONE:
        found = {
            "num_experts": int(need("expert_count")),
            "num_experts_per_tok": int(need("expert_used_count")),
            "moe_intermediate_size": int(need("expert_feed_forward_length")),
            "norm_topk_prob": SHARES_SUM_TO_ONE[family],
        }
        if family == "qwen2_moe":
            found["shared_expert_intermediate_size"] = int(need("expert_shared_feed_forward_length"))
        return found
    if family == "phi3":
        width, turned = int(need("attention.key_length")), int(need("rope.dimension_count"))
        return {
            "sliding_window": int(may("attention.sliding_window", 0)) or None,
            "original_max_position_embeddings": int(
                may("rope.scaling.original_context_length", need("context_length"))
            ),
            "pad_token_id": None,
            "rope_parameters": rope | ({"partial_rotary_factor": turned / width} if turned != width else {}),
        }
    if family not in GEMMAS:
        return {}
    pattern = may("attention.sliding_window_pattern", PERIODS[family])
    types = (
        _layer_types(layers, int(pattern)) if isinstance(pattern, int) else [(FULL, SLIDING)[bool(k)] for k in pattern]
    )
    heads, width = int(need("attention.head_count")), int(need("attention.key_length"))
    local = {"rope_type": "default", "rope_theta": float(may("rope.freq_base_swa", LOCAL_BASE))}
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": int(need("embedding_length")) // heads if layers == WIDEST_GEMMAS[family] else width,
        "sliding_window": int(may("attention.sliding_window", WINDOWS[family])),
        "layer_types": types,
        "attn_logit_softcapping": may("attn_logit_softcapping"),
        "final_logit_softcapping": may("final_logit_softcapping"),
        "rope_parameters": rope if family == "gemma2" else {FULL: rope, SLIDING: local},
    }


def _layer_types(layers: int, period: int) -> list[str]:
    return [FULL if (layer + 1) % period == 0 else SLIDING for layer in range(layers)]


def _departs(facts: ModelFacts, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"llama.cpp cannot run {facts.architecture} with {what}", hint="use --format compressed-tensors"
    )
