"""What each layer of a model keeps of the tokens that it has seen: full attention, a window of it, a latent, a state.

Read from a plain config, so that a model that is not on this machine has a layout too. Where a config lists
`layer_types` (transformers 4.53 and later), the list decides; older configs say the same by a period or a switch, whose
meaning differs by family and stands in `_windowed`.

Not here: bytes (planner/cache_bytes.py), and which engine leaves windows unused (planner/llamacpp_memory.py).
Sources: transformers 5.23, models/{mistral,phi3,qwen2,gemma2,gemma3,cohere2,gpt_oss,llama4,deepseek_v3,jamba,bamba,
qwen3_next,lfm2}/configuration_*.py and modeling_*.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from bitwright.core.attention import CacheGroup, CacheLayout, StateGroup
from bitwright.core.plan import ModelFacts

FULL, WINDOW, STATE = "full", "window", "state"
_KINDS = {
    "full_attention": FULL, "attention": FULL, "sliding_attention": WINDOW, "chunked_attention": WINDOW,
    "linear_attention": STATE, "mamba": STATE, "conv": STATE, "moe": "", "mlp": "",
}  # fmt: skip
_PERIODS = {"gemma2": 2, "gemma3_text": 6, "gemma3": 6, "cohere2": 4}  # every so many layers, one sees all tokens
_DEFAULT_WINDOW = dict.fromkeys(
    ("mistral", "gemma2", "gemma3", "gemma3_text", "cohere2"), 4096
)  # where the key is absent
_PATTERN = {"*": FULL, "M": STATE}  # of `hybrid_override_pattern`; other letters are feed-forward parts


def cache_layout(config: Mapping[str, Any]) -> CacheLayout:
    """The layout of a decoder's config, or of the decoder inside of a vision-language model's.

    Keys that are absent count as they do in transformers; a config without heads or layers raises `KeyError`.
    """
    nested = config.get("text_config")
    config = nested if isinstance(nested, Mapping) else config
    counts = Counter(_kinds(config))
    groups = []
    for kind, span in ((FULL, None), (WINDOW, _window(config))):
        if counts[kind]:
            groups.append(_group(config, counts[kind], span))
    states = (_state(config, counts[STATE]),) if counts[STATE] else ()
    return CacheLayout(groups=tuple(groups), states=states)


def layout_of(facts: ModelFacts) -> CacheLayout:
    """The layout of a model: its own, or that of layers which all look at all tokens."""
    if facts.cache is not None:
        return facts.cache
    group = CacheGroup(layers=facts.layers, heads=facts.kv_heads, key=facts.head_dim, value=facts.head_dim)
    return CacheLayout(groups=(group,))


def _kinds(config: Mapping[str, Any]) -> list[str]:
    """What each layer is, the first one first."""
    layers = config["num_hidden_layers"]
    if listed := config.get("layer_types") or config.get("layers_block_type"):
        kinds = [_KINDS[kind] for kind in listed[:layers]]
    elif pattern := config.get("hybrid_override_pattern"):
        kinds = [_PATTERN.get(letter, "") for letter in pattern]
    elif period := config.get("attn_layer_period"):
        offset = config.get("attn_layer_offset", 0)
        kinds = [FULL if layer % period == offset else STATE for layer in range(layers)]
    elif period := config.get("full_attention_interval"):
        kinds = [STATE if (layer + 1) % period else FULL for layer in range(layers)]
    else:
        kinds = [WINDOW if _windowed(config, layer) else FULL for layer in range(layers)]
    return kinds if _window(config) else [FULL if kind == WINDOW else kind for kind in kinds]


def _window(config: Mapping[str, Any]) -> int | None:
    """Tokens that layers with a window look back."""
    absent = _DEFAULT_WINDOW.get(str(config.get("model_type")))
    return config.get("sliding_window", absent) or config.get("attention_chunk_size")


def _windowed(config: Mapping[str, Any], layer: int) -> bool:
    """Whether a layer of a config without a list looks back over a window only."""
    family = str(config.get("model_type", ""))
    if config.get("attention_chunk_size"):  # Llama 4: three layers of four
        full = config.get("no_rope_layers")
        return bool(full[layer]) if full else (layer + 1) % 4 != 0
    if not _window(config):
        return False
    if family in _PERIODS:
        period = config.get("sliding_window_pattern") or _PERIODS[family]
        return (layer + 1) % int(period) != 0
    if family == "gpt_oss":
        return layer % 2 == 0
    if family.startswith("qwen"):  # the first layers see all tokens, where windows are used at all
        return bool(config.get("use_sliding_window")) and layer >= config.get("max_window_layers", 28)
    return True  # Mistral, Mixtral, Phi-3


def _group(config: Mapping[str, Any], layers: int, window: int | None) -> CacheGroup:
    if latent := config.get("kv_lora_rank"):
        return CacheGroup(layers=layers, heads=1, key=latent + config["qk_rope_head_dim"], value=0, window=window)
    heads = config["num_attention_heads"]
    width = config.get("head_dim") or config["hidden_size"] // heads
    kept = config.get("num_key_value_heads") or heads
    return CacheGroup(layers=layers, heads=kept, key=width, value=width, window=window)


def _state(config: Mapping[str, Any], layers: int) -> StateGroup:
    """Values that a layer without keys and values keeps for a request."""
    if "linear_num_value_heads" in config:  # gated delta net: a matrix per head
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        values = config["linear_num_value_heads"] * config["linear_value_head_dim"]
        convolution = (2 * keys + values) * (config["linear_conv_kernel_dim"] - 1)
        return StateGroup(layers=layers, convolution=convolution, recurrent=values * config["linear_key_head_dim"])
    if "conv_L_cache" in config:  # LFM2
        return StateGroup(layers=layers, convolution=config["hidden_size"] * (config["conv_L_cache"] - 1), recurrent=0)
    state = config.get("mamba_d_state") or config["ssm_state_size"]
    taps = (config.get("mamba_d_conv") or config["conv_kernel"]) - 1
    heads = config.get("mamba_n_heads") or config.get("mamba_num_heads")
    if heads is None:  # Mamba 1, as in Jamba: a state per channel, and the convolution over them alone
        inner = config["mamba_expand"] * config["hidden_size"]
        return StateGroup(layers=layers, convolution=inner * taps, recurrent=inner * state)
    inner = heads * (config.get("mamba_d_head") or config["mamba_head_dim"])
    groups = config.get("mamba_n_groups") or config.get("n_groups", 1)
    return StateGroup(layers=layers, convolution=(inner + 2 * groups * state) * taps, recurrent=inner * state)
