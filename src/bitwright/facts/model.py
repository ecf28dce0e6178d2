"""`ModelFacts` of a checkpoint folder: what `config.json` says, held against what the headers hold.

Config files of transformers 4 and 5 differ in names (`torch_dtype`/`dtype`, `rope_theta`/`rope_parameters`) and in what
they leave out; both are read. Every tensor of the family must be there with the shape that the config implies, and
nothing else may be: a planner that trusted one side would find out hours later.

Not here: reading headers (checkpoint.py), names of tensors (families.py).
Source: transformers models/*/configuration_*.py for defaults of absent keys.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import ExpertFacts, ModelFacts, TensorFacts
from bitwright.facts.cache_layout import cache_layout
from bitwright.facts.cache_scales import KEY_SCALE, VALUE_SCALE
from bitwright.facts.checkpoint import CONFIG, Checkpoint, read_checkpoint
from bitwright.facts.families import EMBEDDING, FAMILIES, FINAL_NORM, HEAD, Family, family_of
from bitwright.facts.vision import decoder_config, split, vision_family

FLOAT_DTYPES = ("F32", "F16", "BF16")
MOE_KEYS = ("num_local_experts", "num_experts", "n_routed_experts")
ACTIVATION_KEYS = ("hidden_activation", "hidden_act")  # Gemma's configs may hold both, and mean the first
BIAS_KEYS = ("attention_bias", "mlp_bias")
# recomputed by every reader where old checkpoints hold them; scales of the cache are no weights
BUFFERS = ("rotary_emb.inv_freq", ".masked_bias", ".attn.bias", ".position_ids", KEY_SCALE, VALUE_SCALE)
DEFAULT_ROPE_THETA = 10000.0


def model_facts(folder: Path) -> ModelFacts:
    """Read and check a checkpoint. Raises `InputError` on damage, `UnsupportedError` on a model that is not served."""
    return facts_of(folder, read_checkpoint(folder))


def facts_of(folder: Path, checkpoint: Checkpoint) -> ModelFacts:
    """The facts of a checkpoint that was read from `folder`; a decoded artifact presents itself as one. Same errors."""
    where, outer = folder / CONFIG, vision_family(checkpoint.config)
    tensors = tuple(tensor for tensor in checkpoint.tensors if not tensor.name.endswith(BUFFERS))
    config = decoder_config(checkpoint.config, [tensor.name for tensor in tensors])
    family = _family(config, where)
    held, vision = (tensors, None) if outer is None else split(outer, tensors)
    bare = bare_facts(config, family, where)
    held = tuple(tensor for tensor in held if not (bare.tied and tensor.name == HEAD))
    tensors = held if vision is None else (*held, *vision.tower, *vision.projector)
    _check_dtypes(folder, tensors)
    facts = msgspec.structs.replace(
        bare,
        path=str(folder),
        architecture=family.architecture if outer is None else outer.architecture,
        parameters=sum(math.prod(t.shape) for t in tensors),
        bytes=sum(t.bytes for t in tensors),
        dtype=_main_dtype(tensors),
        tensors=held,
        fingerprint=checkpoint.fingerprint,
        vision=vision,
    )
    _check_tensors(facts, family)
    return facts


def bare_facts(config: dict[str, Any], family: Family, where: Path) -> ModelFacts:
    """What a decoder's config alone says: dimensions, experts, cache; no tensors, and nothing that is summed over them.

    Raises `InputError` naming `where` for dimensions that are absent or contradict each other.
    """
    heads = _count(config, "num_attention_heads", where)
    hidden = _count(config, "hidden_size", where)
    kv_heads = _count(config, "num_key_value_heads", where, default=heads)
    if heads % kv_heads:
        raise InputError(f"`{where}` has {heads} heads and {kv_heads} key-value heads, expected a multiple")
    if config.get("head_dim") is None and hidden % heads:
        raise InputError(f"`{where}` has hidden_size {hidden} and {heads} heads, and no head_dim")
    return ModelFacts(
        path=str(where),
        architecture=family.architecture,
        family=family.name,
        layers=_count(config, "num_hidden_layers", where),
        hidden=hidden,
        intermediate=_count(config, "intermediate_size", where),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=_count(config, "head_dim", where, default=hidden // heads),
        vocab=_count(config, "vocab_size", where),
        context=_count(config, "max_position_embeddings", where, default=2048),
        tied=bool(config.get("tie_word_embeddings", family.tied)),
        parameters=0,
        bytes=0,
        dtype="",
        tensors=(),
        fingerprint="",
        experts=experts_of(config, family, where),
        cache=cache_layout(config),
    )


def rope_theta(config: dict[str, Any]) -> float:
    """Base of the rotary embedding, from a config of transformers 4 (`rope_theta`) or 5 (`rope_parameters`)."""
    parameters = config.get("rope_parameters") or {}
    return float(parameters.get("rope_theta", config.get("rope_theta", DEFAULT_ROPE_THETA)))


def expected_shapes(facts: ModelFacts) -> dict[str, tuple[int, ...]]:
    """Every tensor that a model of these dimensions has, with its shape."""
    family = FAMILIES[facts.family]
    attention, key_value = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    matrices = {
        "self_attn.q_proj": (attention, facts.hidden),
        "self_attn.k_proj": (key_value, facts.hidden),
        "self_attn.v_proj": (key_value, facts.hidden),
        "self_attn.qkv_proj": (attention + 2 * key_value, facts.hidden),
        "self_attn.o_proj": (facts.hidden, attention),
        "mlp.gate_proj": (facts.intermediate, facts.hidden),
        "mlp.up_proj": (facts.intermediate, facts.hidden),
        "mlp.gate_up_proj": (2 * facts.intermediate, facts.hidden),
        "mlp.down_proj": (facts.hidden, facts.intermediate),
    } | _expert_shapes(facts, family)
    vectors = {"self_attn.q_norm": facts.head_dim, "self_attn.k_norm": facts.head_dim}
    top = {EMBEDDING: (facts.vocab, facts.hidden), HEAD: (facts.vocab, facts.hidden), FINAL_NORM: (facts.hidden,)}
    shapes: dict[str, tuple[int, ...]] = {}
    for name in family.all_tensors(facts.layers, tied=facts.tied, experts=facts.experts):
        if name in top:
            shapes[name] = top[name]
            continue
        module, kind = name.split(".", 3)[3].rsplit(".", 1)
        if module not in matrices:
            shapes[name] = (vectors.get(module, facts.hidden),)
        else:
            shapes[name] = matrices[module] if kind == "weight" else matrices[module][:1]
    return shapes


def _expert_shapes(facts: ModelFacts, family: Family) -> dict[str, tuple[int, int]]:
    """Shapes of the matrices in the feed-forward part of a block with experts."""
    names, experts = family.experts, facts.experts
    if names is None or experts is None:
        return {}
    shapes = {names.router: (experts.count, facts.hidden), f"{names.block}.shared_expert_gate": (1, facts.hidden)}
    widths = {names.expert(number): experts.intermediate for number in range(experts.count)}
    for (gate, up, down), width in (widths | {names.shared_expert(): experts.shared_intermediate}).items():
        shapes |= {gate: (width, facts.hidden), up: (width, facts.hidden), down: (facts.hidden, width)}
    return shapes


def experts_of(config: dict[str, Any], family: Family, where: Path) -> ExpertFacts | None:
    """Counts and widths of the experts, under the names that the configs of Mixtral and of Qwen give them."""
    if family.experts is None:
        return None
    count = _count(config, "num_local_experts" if "num_local_experts" in config else "num_experts", where)
    per_token = _count(config, "num_experts_per_tok", where)
    if per_token > count:
        raise InputError(f"`{where}` sends a token to {per_token} of {count} experts")
    width = "intermediate_size" if family.name == "mixtral" else "moe_intermediate_size"
    layers, step = _count(config, "num_hidden_layers", where), _count(config, "decoder_sparse_step", where, default=1)
    listed = config.get("mlp_only_layers") or []
    dense = (layer for layer in range(layers) if layer in listed or (layer + 1) % step)
    shared = family.experts.shared
    return ExpertFacts(
        count=count,
        per_token=per_token,
        intermediate=_count(config, width, where),
        shared_intermediate=_count(config, "shared_expert_intermediate_size", where) if shared else 0,
        dense_layers=tuple(dense),
    )


def _family(config: dict[str, Any], where: Path) -> Family:
    """The family, after refusing what this version cannot serve."""
    if config.get("quantization_config"):
        method = config["quantization_config"]
        name = method.get("quant_method", "unknown") if isinstance(method, dict) else "unknown"
        raise UnsupportedError(
            f"`{where}` describes a checkpoint that is already quantized ({name})",
            hint="start from the original float checkpoint: quantizing twice adds both errors",
        )
    architectures = config.get("architectures")
    if not isinstance(architectures, list) or not architectures or not isinstance(architectures[0], str):
        raise InputError(
            f"`{where}` names no architecture", hint="expected a language model's config with `architectures`"
        )
    family = family_of(architectures[0])
    experts = next((key for key in MOE_KEYS if config.get(key)), None)
    if experts is not None and family.experts is None:
        raise UnsupportedError(
            f"`{where}` describes a mixture of experts ({experts}: {config[experts]}) as {family.architecture}, "
            "which has none",
        )
    biased = next((key for key in BIAS_KEYS if config.get(key) and not family.biased), None)
    if biased is not None:
        raise UnsupportedError(f"`{where}` sets {biased}, which is not supported in {family.architecture}")
    if config.get("use_bidirectional_attention"):
        raise UnsupportedError(f"`{where}` sets use_bidirectional_attention: only causal models are supported")
    activation = next((config[key] for key in ACTIVATION_KEYS if config.get(key)), family.activation)
    if activation != family.activation:
        raise UnsupportedError(f"`{where}` has hidden_act {activation!r}, expected {family.activation!r}")
    return family


def _count(config: dict[str, Any], key: str, where: Path, *, default: int | None = None) -> int:
    """A positive whole number of the config."""
    value = config.get(key)
    if value is None and default is not None:
        return default
    if type(value) is not int or value <= 0:
        found = "is absent" if value is None else f"is {value!r}"
        raise InputError(f"`{where}`: {key} {found}, expected a positive whole number")
    return value


def _check_dtypes(folder: Path, tensors: tuple[TensorFacts, ...]) -> None:
    for tensor in tensors:
        if tensor.dtype not in FLOAT_DTYPES:
            raise UnsupportedError(
                f"`{folder / tensor.file}`: `{tensor.name}` is {tensor.dtype}, expected {', '.join(FLOAT_DTYPES)}",
                hint="convert the checkpoint to bf16 or f16 first",
            )


def _main_dtype(tensors: tuple[TensorFacts, ...]) -> str:
    """The dtype that holds most bytes."""
    held = {dtype: sum(t.bytes for t in tensors if t.dtype == dtype) for dtype in FLOAT_DTYPES}
    return max(held, key=lambda dtype: held[dtype])


def _check_tensors(facts: ModelFacts, family: Family) -> None:
    """The tensors of the headers are exactly those that the config implies."""
    found = {tensor.name: tensor for tensor in facts.tensors}
    expected = expected_shapes(facts)
    for name, shape in expected.items():
        if name not in found:
            hint = "if the head shares the embedding, set tie_word_embeddings in config.json" if name == HEAD else None
            raise InputError(
                f"`{facts.path}` lacks `{name}`, which {family.architecture} with {facts.layers} layers needs",
                hint=hint,
            )
        if found[name].shape != shape:
            raise InputError(
                f"`{facts.path}`: `{name}` has shape {list(found[name].shape)}, config.json implies {list(shape)}",
                hint="config.json and weights belong to different models",
            )
    for name in found.keys() - expected.keys():
        raise InputError(
            f"`{facts.path}` holds `{name}`, which is no part of {family.architecture} with {facts.layers} layers",
            hint="config.json and weights belong to different models, or this is an adapter",
        )
