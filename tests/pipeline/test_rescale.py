"""Rewriting a block changes its weights and nothing that it computes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.core.plan import CalibrationPlan, DeviceFacts
from bitwright.facts.blocks import block_folds, block_groups
from bitwright.facts.families import BLOCK, FAMILIES, is_block_linear
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.modeling.walk import Walker
from bitwright.pipeline.rescale import rescale_block
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
PREFIX = BLOCK.format(layer=0)


def rewritten(folder: Path, **choices: object) -> tuple[torch.nn.Module, torch.nn.Module, Walker, dict[str, str]]:
    """The first block as it is, rewritten, and what was noted."""
    source = CheckpointSource(folder)
    walker = Walker(source)
    bare, block = walker.load_block(0), walker.load_block(0)
    rng = np.random.default_rng(0)
    facts = source.facts
    squares = {
        group.name: np.exp(rng.standard_normal(block.get_parameter(f"{group.leader}.weight").shape[1])).astype("f4")
        for group in block_groups(facts, 0)
    }
    plan = make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=CalibrationPlan(), **choices)
    plans = {entry.name: entry for entry in plan.tensors}
    notes, scales = rescale_block(
        block, squares, plans, PREFIX, block_folds(facts, 0), heads=facts.heads, kv_heads=facts.kv_heads,
        norm_offset=FAMILIES[facts.family].norm_offset,
    )  # fmt: skip
    assert set(scales) == ({*squares} if notes else set())
    return bare, block, walker, notes


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("form", ["gguf", "compressed-tensors"])
def test_the_block_computes_the_same(tmp_path: Path, family: str, form: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family=family, hidden=256, heads=8, kv_heads=2, intermediate=256)
    kind = {"type": "Q4_K_M"} if form == "gguf" else {"bits": 4, "group_size": 64}
    bare, block, walker, notes = rewritten(folder, format=form, **kind)
    linears = [name for name in FAMILIES[family].block_tensors(0, model_facts(folder).experts) if is_block_linear(name)]
    assert set(notes) == set(linears)  # every linear was scaled
    hidden = torch.randn(2, 16, 256, generator=torch.Generator().manual_seed(0))
    expected, found = walker.forward(bare, hidden), walker.forward(block, hidden)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    norm = block.get_parameter("input_layernorm.weight")
    assert not torch.equal(norm, bare.get_parameter("input_layernorm.weight"))
    if form == "compressed-tensors":  # stored as bfloat16, and exactly so
        assert torch.equal(norm.bfloat16().float(), norm)
        for name, bias in block.named_parameters():
            if name.endswith(("v_proj.bias", "gate.weight")):  # the router goes along
                assert torch.equal(bias.bfloat16().float(), bias)


def test_what_stays_in_floating_point_is_left_alone(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", hidden=256, heads=8, kv_heads=2, intermediate=256)
    bare, block, _, notes = rewritten(folder, format="gguf", type="F16")
    assert notes == {}
    for name, parameter in bare.named_parameters():
        assert torch.equal(parameter, block.get_parameter(name)), name
