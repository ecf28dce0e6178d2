"""What a block attends over: its mask and its rotary embedding, which differ from block to block in some families.

Gemma 2 and 3 alternate between blocks that see the whole window and blocks that see the last so many tokens; Gemma 3
also turns them by different frequencies. Attention scores of Gemma 2 are capped, which only transformers' plain
implementation does, and that one knows no causality of its own: it gets a mask always.

Source: transformers 5.23, masking_utils.py, models/gemma2/modeling_gemma2.py, models/gemma3/modeling_gemma3.py.
Dimension key: T tokens per window
"""

from __future__ import annotations

from typing import Any

import torch

from bitwright.modeling import tiles
from bitwright.tensors.devices import CPU

SLIDING = "sliding_attention"


def implementation(config: Any, *, reduced: bool = False) -> str:
    """The name of the attention function that computes what the config asks for, in bfloat16 where `reduced`."""
    if getattr(config, "attn_logit_softcapping", None):
        return "eager"
    return tiles.register() if reduced else "sdpa"


def layer_type(config: Any, index: int) -> str | None:
    """`full_attention`, `sliding_attention`, or `None` where the family does not tell its blocks apart."""
    types = getattr(config, "layer_types", None)
    return str(types[index]) if types else None


def window(config: Any, index: int) -> int | None:
    """How many tokens, itself included, a token of this block sees at most; `None`: all before it."""
    kind = layer_type(config, index)
    if kind not in (None, SLIDING):
        return None
    return getattr(config, "sliding_window", None) or None


def mask(
    config: Any, index: int, tokens: int, dtype: torch.dtype = torch.float32, device: torch.device = CPU
) -> torch.Tensor | None:
    """[1, 1, T, T] to add to scores, or `None` where the attention function is causal by itself and sees all."""
    seen = window(config, index)
    if implementation(config) == "sdpa" and (seen is None or seen >= tokens):
        return None
    distance_TT = torch.arange(tokens)[:, None] - torch.arange(tokens)[None]
    allowed_TT = distance_TT >= 0
    if seen is not None:
        allowed_TT &= distance_TT < seen
    return torch.where(allowed_TT, 0.0, torch.finfo(dtype).min).to(device, dtype)[None, None]
