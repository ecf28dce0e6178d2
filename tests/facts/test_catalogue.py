"""The catalogue: published counts, and facts equal to those of a checkpoint with the same config."""

from __future__ import annotations

import datetime
import json
import math
import re
from pathlib import Path

import pytest

from bitwright.core.plan import ModelFacts
from bitwright.core.units import GIB
from bitwright.facts.cache_layout import layout_of
from bitwright.facts.catalogue import CatalogueRow, catalogue, catalogue_facts, row_of_model
from bitwright.facts.families import FAMILIES
from bitwright.facts.hardware import find_device
from bitwright.facts.latent_attention import LATENT_ATTENTION
from bitwright.facts.model import model_facts
from bitwright.facts.stacks import stacked
from bitwright.facts.vision import VISION_FAMILIES
from bitwright.planner.build import make_plan
from checkpoints import MIXTURES, write_checkpoint

ROWS = catalogue()
DERIVED = ("llava-1.5-13b", "llava-1.6-vicuna-13b", "internvl3-14b")  # published rounded, or with another vocabulary
GPU = find_device("h200-sxm:16")


def row_like(folder: Path, family: str) -> CatalogueRow:
    """A row with the config of a checkpoint."""
    config = json.loads((folder / "config.json").read_text())
    return CatalogueRow(
        id="tiny", hub="some/tiny", parameters=1, dtype="BF16", architecture=FAMILIES[family].architecture,
        config=config, date="2026-11-21",
    )  # fmt: skip


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_tensors_sum_up_to_the_published_count(row: CatalogueRow) -> None:
    facts = catalogue_facts(row)
    assert facts.parameters == pytest.approx(row.parameters, rel=0.005)
    assert (facts.parameters == row.parameters) == (row.id not in DERIVED)
    assert facts.parameters == sum(math.prod(tensor.shape) for tensor in facts.all_tensors)
    assert facts.bytes == 2 * facts.parameters
    assert (facts.path, facts.catalogue) == (row.id, row.hub)


def test_rows_are_well_formed() -> None:
    names = [name for row in ROWS.values() for name in (row.id, *row.aliases)]
    assert len(names) == len(set(names))
    for row in ROWS.values():
        assert re.fullmatch(r"[a-z0-9]+([-.][a-z0-9]+)*", row.id), row.id
        assert re.fullmatch(r"[\w.-]+/[\w.-]+", row.hub), row.id
        assert datetime.date.fromisoformat(row.date)
        assert bool(row.vision) == bool(row.tower) == bool(row.projector), row.id
        assert row.vision in ("", *VISION_FAMILIES)
        assert row.architecture == LATENT_ATTENTION or row.config["model_type"] in FAMILIES


@pytest.mark.parametrize("family", list(FAMILIES))
def test_facts_equal_those_of_a_checkpoint(tmp_path: Path, family: str) -> None:
    read = model_facts(write_checkpoint(tmp_path / "model", family))
    made = catalogue_facts(row_like(tmp_path / "model", family))
    same = ("architecture", "family", "layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab",
            "context", "tied", "parameters", "bytes", "dtype", "experts", "cache")  # fmt: skip
    assert [getattr(made, field) for field in same] == [getattr(read, field) for field in same]
    if family in MIXTURES:
        return
    held = {tensor.name: (tensor.shape, tensor.dtype, tensor.bytes) for tensor in read.tensors}
    assert {tensor.name: (tensor.shape, tensor.dtype, tensor.bytes) for tensor in made.tensors} == held


STACKED_WISHES = [
    ("compressed-tensors", "FP8_DYNAMIC"), ("compressed-tensors", "W4A16"), ("compressed-tensors", "NVFP4"),
    ("gguf", "Q4_0"), ("fp8", "FP8_BLOCK"), ("fp8", "FP8"), ("modelopt", "NVFP4"), ("modelopt", "FP8"),
]  # fmt: skip


@pytest.mark.parametrize("wish", STACKED_WISHES, ids=" ".join)
@pytest.mark.parametrize("family", MIXTURES)
def test_stacked_experts_take_the_bytes_of_single_ones(tmp_path: Path, family: str, wish: tuple[str, str]) -> None:
    read = model_facts(write_checkpoint(tmp_path / "model", family))
    made = catalogue_facts(row_like(tmp_path / "model", family))
    stack = stacked(read)
    assert len(made.tensors) == len(stack.tensors) < len(read.tensors)
    assert stacked(made) is made
    plans = [
        make_plan(facts, GPU, use_case="chat", format=wish[0], type=wish[1], group_size=32)
        for facts in (read, made, stack)
    ]
    sizes = [sum(tensor.bytes for tensor in plan.tensors) for plan in plans]
    assert sizes[0] == sizes[1] == sizes[2]
    kinds = [{(tensor.name, tensor.scheme) for tensor in plan.tensors} for plan in plans]
    assert kinds[1] == kinds[2] <= kinds[0]


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_every_model_has_a_plan(row: CatalogueRow) -> None:
    facts = catalogue_facts(row)
    plan = make_plan(facts, GPU, use_case="vlm" if row.vision else "chat")
    assert plan.type == "FP8_DYNAMIC"
    assert sum(math.prod(tensor.shape) for tensor in plan.tensors) == facts.parameters
    assert row.hub in plan.warnings[0] or "not quantized by this version" in plan.warnings[0]


def test_names_are_found_in_any_case_and_by_alias() -> None:
    assert row_of_model("Llama-3.1-70B") is ROWS["llama-3.1-70b"]
    assert row_of_model("mistral-nemo") is ROWS["mistral-nemo-12b"]
    assert row_of_model("llama-9-70b") is None


def facts_named(name: str) -> ModelFacts:
    return catalogue_facts(ROWS[name])


def test_what_is_kept_of_a_token() -> None:
    """Windows of Gemma 3, the latent of DeepSeek, the shared heads of Llama."""
    gemma, deepseek, llama = map(facts_named, ("gemma-3-27b", "deepseek-v3", "llama-3.1-70b"))
    assert [(group.layers, group.window) for group in layout_of(gemma).groups] == [(10, None), (52, 1024)]
    assert [(group.layers, group.heads, group.key, group.value) for group in layout_of(deepseek).groups] == [
        (61, 1, 576, 0)
    ]
    assert [(group.layers, group.heads, group.key) for group in layout_of(llama).groups] == [(80, 8, 128)]


def test_deepseek_has_the_tensors_of_its_blocks() -> None:
    """Shapes of DeepSeek-V3's checkpoint, and all experts of a kind in one tensor."""
    shapes = {tensor.name: tensor.shape for tensor in facts_named("deepseek-v3").tensors}
    assert shapes["model.layers.0.mlp.gate_proj.weight"] == (18432, 7168)
    assert shapes["model.layers.3.self_attn.kv_a_proj_with_mqa.weight"] == (576, 7168)
    assert shapes["model.layers.3.self_attn.q_b_proj.weight"] == (24576, 1536)
    assert shapes["model.layers.60.mlp.experts.0.down_proj.weight"] == (256, 7168, 2048)
    assert shapes["model.layers.60.mlp.shared_experts.up_proj.weight"] == (2048, 7168)
    plan = make_plan(facts_named("deepseek-v3"), GPU, use_case="chat")
    kept = {entry.name for entry in plan.tensors if entry.scheme.label == "BF16" and len(entry.shape) > 1}
    assert {re.sub(r"\d+", "N", name) for name in kept} == {
        "model.embed_tokens.weight", "lm_head.weight", "model.layers.N.mlp.gate.weight"
    }  # fmt: skip
    assert plan.file_bytes / GIB == pytest.approx(627, abs=3)


def test_a_model_without_gguf_names_is_refused_as_gguf() -> None:
    from bitwright.core.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match="DeepseekV3ForCausalLM is not written as GGUF"):
        make_plan(facts_named("deepseek-v3"), GPU, use_case="chat", format="gguf", type="Q4_K_M")
