"""Attention by tiles is attention, and a block in bfloat16 stays near the block in float32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright.facts.families import FAMILIES
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.modeling.tiles import causal_attention
from bitwright.modeling.walk import Linear, Walker
from checkpoints import write_checkpoint


@pytest.mark.parametrize(("heads", "shared"), [(4, 4), (6, 2), (3, 1)])
@pytest.mark.parametrize("tokens", [1, 40, 128, 300])
def test_tiles_equal_the_whole(heads: int, shared: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(heads * tokens)
    query = torch.randn(2, heads, tokens, 16, generator=generator)
    key, value = (torch.randn(2, shared, tokens, 16, generator=generator) for _ in range(2))
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=0.2, enable_gqa=True
    )
    torch.testing.assert_close(causal_attention(query, key, value, 0.2), expected)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_narrow_block_is_the_block_but_for_rounding(tmp_path: Path, family: str) -> None:
    source = CheckpointSource(write_checkpoint(tmp_path / "model", family))
    exact, narrow = Walker(source), Walker(source, reduced=True)
    hidden = exact.embed(torch.arange(80).view(2, 40))
    block = narrow.load_block(0)
    narrow.narrow(block)
    assert all(linear.weight.dtype == torch.float32 for linear in block.modules() if isinstance(linear, Linear))
    found = narrow.forward(block, hidden.bfloat16())
    assert found.dtype == torch.bfloat16
    expected = exact.run_block(0, hidden)
    moved = (found.float() - expected).norm(dim=-1) / expected.norm(dim=-1)
    assert float(moved.median()) < 0.02
