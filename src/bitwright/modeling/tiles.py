"""Causal attention in bfloat16 by tiles of queries, on ordinary matrix products.

torch's fused attention on the CPU multiplies bfloat16 through MKL, which keeps to AVX2 on processors that are not
Intel's, and it wants keys and values repeated for every query head. Here the query heads that share keys are rows of
one product by oneDNN, and a tile of queries sees only the keys up to its own end: 13 ms against 41 ms for 8 windows of
512 tokens, 12 heads on 4, of width 64 (docs/log.md, 2026-11-21).

Anything else, a mask or another type, goes to transformers' own function. Source of the interface: transformers 5.23,
integrations/sdpa_attention.py.

Dimension key: B windows · H query heads · K heads of keys · G query heads per key head · T tokens · D width · L tile
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

NAME = "bitwright_tiles"
TILE = 128  # queries: a tile of scores stays in the second-level cache, and an eighth of the work is for masked scores


def register() -> str:
    """Make the function known to transformers; returns the name that a config asks for it by."""
    from transformers import AttentionInterface  # seconds to import

    AttentionInterface.register(NAME, attend)
    return NAME


def attend(
    module: nn.Module,
    query_BHTD: torch.Tensor,
    key_BKTD: torch.Tensor,
    value_BKTD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: the outputs as [B, T, H, D]."""
    on_cpu = query_BHTD.device.type == "cpu"  # elsewhere torch's fused attention has no such faults
    if on_cpu and attention_mask is None and query_BHTD.dtype == torch.bfloat16 and not rest.get("softcap"):
        scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
        return causal_attention(query_BHTD, key_BKTD, value_BKTD, scale).transpose(1, 2), None
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    outputs: tuple[torch.Tensor, None] = sdpa_attention_forward(
        module, query_BHTD, key_BKTD, value_BKTD, attention_mask, scaling=scaling, **rest
    )
    return outputs


def causal_attention(
    query_BHTD: torch.Tensor, key_BKTD: torch.Tensor, value_BKTD: torch.Tensor, scale: float
) -> torch.Tensor:
    """softmax(scale · q kᵀ, each token seeing itself and what is before) v: [B, H, T, D] in the type of the inputs."""
    windows, heads, tokens, width = query_BHTD.shape
    shared = key_BKTD.shape[1]
    query_BKGTD = (query_BHTD * scale).view(windows, shared, heads // shared, tokens, width)
    outputs_BKGTD = query_BKGTD.new_empty((*query_BKGTD.shape[:-1], value_BKTD.shape[-1]))
    for start in range(0, tokens, TILE):
        stop = min(start + TILE, tokens)
        tile_BKRD = query_BKGTD[:, :, :, start:stop].flatten(2, 3)
        scores_BKRT = tile_BKRD @ key_BKTD[:, :, :stop].transpose(-1, -2)
        rows = scores_BKRT.view(*query_BKGTD.shape[:3], stop - start, stop)
        future_LL = torch.ones(stop - start, stop - start, dtype=torch.bool).triu(1)
        rows[..., start:].masked_fill_(future_LL, float("-inf"))
        mixed_BKRD = torch.softmax(scores_BKRT, dim=-1) @ value_BKTD[:, :, :stop]
        outputs_BKGTD[:, :, :, start:stop] = mixed_BKRD.view(*query_BKGTD.shape[:3], stop - start, -1)
    return outputs_BKGTD.flatten(1, 2)
