"""Our choice of ggml types against llama-quantize's, for every preset and every tensor."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.errors import UnsupportedError
from bitwright.core.schemes import GGML_BLOCKS
from bitwright.facts.families import gguf_name, gguf_tensor
from bitwright.facts.gguf_mixtures import PRESETS, ggml_types
from model_shapes import shaped_facts

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "gguf_types.json").read_text())["models"]
DIMENSIONS = ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab", "tied")


def per_layer(runs: str) -> list[str]:
    """`Q6_K*2 Q4_K*1` → the list."""
    return [kind for run in runs.split() for kind in [run.split("*")[0]] * int(run.split("*")[1])]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", GOLDEN)
def test_types_equal_those_of_llama_quantize(model: str, preset: str) -> None:
    golden = GOLDEN[model]
    family = {"gemma3": "gemma3_text"}.get(golden["architecture"], golden["architecture"])
    dimensions = {key: golden[key] for key in DIMENSIONS} | {"experts": golden.get("experts", 8)}
    facts = shaped_facts(family, **dimensions)
    expected = {}
    for name, runs in golden["types"][preset].items():
        kinds = per_layer(runs)
        if name in ("token_embd.weight", "output_norm.weight", "output.weight"):
            expected[name] = kinds[0]
        else:
            assert len(kinds) == golden["layers"]
            expected |= {f"blk.{layer}.{name}": kind for layer, kind in enumerate(kinds)}
    found = {gguf_tensor(gguf_name(name, facts.family)): kind for name, (kind, _) in ggml_types(facts, preset).items()}
    assert found == expected


def test_the_golden_cases_reach_the_rare_rules() -> None:
    reached = " ".join(
        runs for model in GOLDEN.values() for types in model["types"].values() for runs in types.values()
    )
    assert set(GGML_BLOCKS) <= set(reached.replace("*", " ").split())
    assert "Q5_K*80" in GOLDEN["llama-80-layers"]["types"]["Q4_K_S"]["attn_v.weight"]
    assert "F16" in GOLDEN["llama-16-layers-odd-rows"]["types"]["Q8_0"]["attn_q.weight"]


def test_an_unknown_preset_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnsupportedError) as caught:
        ggml_types(shaped_facts(), "Q4_KM")
    assert caught.value.hint is not None
    assert "did you mean `Q4_K_M`" in caught.value.hint


@settings(deadline=None)
@given(
    preset=st.sampled_from(PRESETS),
    family=st.sampled_from(["llama", "mistral", "qwen2", "qwen3"]),
    layers=st.integers(1, 90),
    hidden=st.integers(1, 600),
    intermediate=st.integers(1, 600),
    tied=st.booleans(),
)
def test_every_row_holds_whole_blocks_and_every_choice_has_a_reason(
    preset: str, family: str, layers: int, hidden: int, intermediate: int, tied: bool
) -> None:
    facts = shaped_facts(family, layers=layers, hidden=hidden, intermediate=intermediate, tied=tied)
    types = ggml_types(facts, preset)
    assert set(types) == {tensor.name for tensor in facts.tensors}
    for tensor in facts.tensors:
        kind, reason = types[tensor.name]
        assert tensor.shape[-1] % GGML_BLOCKS[kind][0] == 0
        assert reason
        assert math.prod(tensor.shape) > 0
