"""Distillation: never worse on its own windows, repeatable to the byte, and read by transformers as it was trained."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from bitwright.core.errors import UsageError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.facts.model import model_facts
from bitwright.formats.sniff import open_source
from bitwright.modeling.distillation import Latent, distill
from bitwright.modeling.walk import Linear
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
ERRORS = re.compile(r"outputs (\S+) with the nearest codes, (\S+) trained")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", hidden=64, intermediate=128, layers=2)


def plan_for(folder: Path, **choices: Any) -> Plan:
    text = folder.parent / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 120)
    calibration = CalibrationPlan(source=(str(text),), samples=6, length=32)
    return make_plan(
        model_facts(folder), DEVICE, use_case="chat", method="zeroquant", calibration=calibration, **choices
    )


@pytest.mark.slow
@pytest.mark.parametrize("type", ["W4A16", "W8A8", "W8A8_STATIC"])
def test_codes_are_better_for_the_block_and_come_out_alike(folder: Path, tmp_path: Path, type: str) -> None:
    plan = plan_for(folder, format="compressed-tensors", type=type, group_size=32)
    record = quantize(plan, folder, tmp_path / "once")
    again = quantize(plan, folder, tmp_path / "twice")
    assert [file.sha256 for file in record.files] == [file.sha256 for file in again.files]
    trained = [tensor for tensor in record.tensors if tensor.method == "zeroquant"]
    assert len(trained) == 14
    found = [ERRORS.search(note) for tensor in trained for note in tensor.notes]
    pairs = [(float(match[1]), float(match[2])) for match in found if match]
    assert len(pairs) == len(trained)
    assert all(after < before for before, after in pairs)


def test_values_are_those_that_transformers_reads(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    plan = plan_for(folder, format="compressed-tensors", bits=4, group_size=32)
    quantize(plan, folder, tmp_path / "out")
    source = open_source(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.load_state_dict({name: source.load(name).float() for name in source.names()}, strict=True)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = torch.arange(24)[None] * 11 % 300
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens).logits, rtol=0, atol=2e-3)


def test_types_without_an_integer_grid_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="zeroquant trains weights on grids of integers"):
        plan_for(folder, format="gguf", type="Q4_K_M")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_latent_begins_at_its_weights(bits: int) -> None:
    half = 2 ** (bits - 1)
    scale, zero = torch.tensor([[0.5, 0.0], [0.25, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    weight = torch.tensor([[0.5, -0.5, 0.0, 0.0], [0.0, 0.25, 4.0, -2.0]])
    latent = Latent.of(weight, scale, zero, -half, half - 1)
    assert torch.equal(latent.values(), weight)


def test_training_finds_roundings_whose_errors_cancel() -> None:
    """All inputs are always equal, so that only the sum of the weights matters: 6.4 steps, none to nearest."""
    linear = Linear(16, 1, bias=False)
    weight = torch.linspace(0.31, 0.49, 16)[None]
    latent = Latent.of(weight.clone(), torch.ones(1, 1), None, -8, 7)
    inputs = torch.randn(16, 8, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 16).contiguous()
    distill(linear, {"x": linear}, {"x": latent}, inputs, inputs @ weight.T, seed=1)
    assert float(weight.round().sum()) == 0
    assert abs(float(latent.codes().sum()) - 6.4) < 2
