"""The whole model in memory in float32, for steps of a few tokens with a cache of keys and values.

It is put together from the walker's blocks, so that it computes what a walk computes, inputs of linears rounded where
the artifact's engine rounds them.
"""

from __future__ import annotations

from typing import Any

import torch

from bitwright.core.protocols import RoundsInputs, WeightSource
from bitwright.modeling.walk import EMBEDDING, HEAD, Walker


@torch.no_grad()
def whole_model(source: WeightSource) -> Any:
    """A transformers model with the weights of `source`. Raises as `Walker` and its blocks do."""
    walker = Walker(source)
    model = walker.skeleton
    decoder = model.model
    for index in range(walker.layers):
        decoder.layers[index] = walker.load_block(index)
    decoder.norm = walker.final_norm(torch.device("cpu"))
    decoder.rotary_emb = walker.rotary
    table = source.load(EMBEDDING).float()
    decoder.embed_tokens.weight = torch.nn.Parameter(table, requires_grad=False)
    if hasattr(decoder.embed_tokens, "scalar_embed_scale"):
        decoder.embed_tokens.embed_scale = torch.tensor(walker.embedding_scale)
    head = table if walker.tied else source.load(HEAD).float()
    model.lm_head.weight = torch.nn.Parameter(head, requires_grad=False)
    if isinstance(source, RoundsInputs):
        model.lm_head.rounding = source.input_rounding(HEAD.removesuffix(".weight"))
    empty = [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    assert not empty, empty
    return model
