"""Names of the stored scales of an 8-bit key-value cache. Readers of weights pass over them.

Source: vLLM 0.32, model_loader/weight_utils.py, maybe_remap_kv_scale_name.
"""

from __future__ import annotations

from bitwright.core.plan import ArtifactFormat
from bitwright.facts.families import BLOCK

CACHE_FORMATS: tuple[ArtifactFormat, ...] = ("compressed-tensors", "fp8", "modelopt")
KEY_SCALE, VALUE_SCALE = ".k_scale", ".v_scale"


def cache_scale_names(format: ArtifactFormat, layer: int) -> tuple[str, str]:
    """Names of the key's and the value's scale of one block."""
    prefix = f"{BLOCK.format(layer=layer)}self_attn"
    if format == "modelopt":
        return f"{prefix}.k_proj{KEY_SCALE}", f"{prefix}.v_proj{VALUE_SCALE}"
    return f"{prefix}{KEY_SCALE}", f"{prefix}{VALUE_SCALE}"


def is_cache_scale(name: str) -> bool:
    """Whether the tensor is one of them."""
    return name.endswith((KEY_SCALE, VALUE_SCALE))
