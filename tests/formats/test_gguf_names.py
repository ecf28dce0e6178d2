"""Names against the family table, row orders against the formula they come from."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import ExpertFacts
from bitwright.facts.families import FAMILIES, gguf_name
from bitwright.formats.ggml.names import inverse_permutation, permutation, rotary_heads, to_gguf, to_hugging_face
from checkpoints import EXPERTS, tensor_shapes


@pytest.mark.parametrize("family", list(FAMILIES))
def test_names_go_there_and_back_and_agree_with_the_planners(family: str) -> None:
    shapes = tensor_shapes(
        family,
        hidden=8,
        layers=12,
        heads=2,
        kv_heads=1,
        head_dim=4,
        intermediate=8,
        vocab=8,
        tied=FAMILIES[family].tied,
    )
    stored = to_gguf(family, 12, list(shapes))
    experts = ExpertFacts(count=EXPERTS, per_token=2, intermediate=8) if FAMILIES[family].experts else None
    back = to_hugging_face(family, 12, experts)
    assert len(set(stored.values())) == len(shapes)
    for name, there in stored.items():
        assert back[there] == name
        assert gguf_name(name, family) == there


def test_a_tensor_without_a_place_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match=r"model\.vision\.weight"):
        to_gguf("llama", 1, ["model.vision.weight"])
    with pytest.raises(UnsupportedError, match="gemma3"):
        to_gguf("gemma3", 1, [])


@given(heads=st.integers(1, 8), half=st.integers(1, 8))
def test_rows_come_back(heads: int, half: int) -> None:
    rows = heads * 2 * half
    order, back = permutation(rows, heads), inverse_permutation(rows, heads)
    assert np.array_equal(order[back], np.arange(rows))
    assert np.array_equal(back[order], np.arange(rows))
    if half > 1:
        assert not np.array_equal(order, np.arange(rows))


@given(heads=st.integers(1, 4), half=st.integers(1, 4))
def test_neighbouring_rows_are_the_rotated_pairs(heads: int, half: int) -> None:
    order = permutation(heads * 2 * half, heads)
    for head in range(heads):
        for i in range(half):
            first = head * 2 * half
            assert order[first + 2 * i] == first + i
            assert order[first + 2 * i + 1] == first + half + i


def test_only_q_and_k_of_llama_are_interleaved() -> None:
    block = "model.layers.0.self_attn."
    assert rotary_heads("llama", block + "q_proj.weight", 8, 2) == 8
    assert rotary_heads("mistral", block + "k_proj.bias", 8, 2) == 2
    assert rotary_heads("llama", block + "v_proj.weight", 8, 2) is None
    assert rotary_heads("qwen2", block + "q_proj.weight", 8, 2) is None
    assert rotary_heads("qwen3", block + "k_norm.weight", 8, 2) is None
