"""A byte budget, from text to file: the size is kept, the table is reused, and costs mean what they say."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bitwright import api
from bitwright.api.budget import COSTS, share_out
from bitwright.core.costs import CostTable
from bitwright.core.documents import read_document
from bitwright.core.errors import UsageError
from bitwright.core.plan import CalibrationPlan, Plan
from bitwright.core.schemes import GgmlScheme
from bitwright.facts.families import is_block_linear
from bitwright.formats.sniff import open_source
from bitwright.pipeline.costs import _costs
from bitwright.quantize.nearest import round_weighted
from checkpoints import write_checkpoint

TEXT = "The quick brown fox jumps over the lazy dog. " * 120


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    folder = write_checkpoint(tmp_path / "model", hidden=256, heads=4, intermediate=512, layers=2)
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    calibration = CalibrationPlan(source=(str(text),), samples=6, length=32)
    return api.plan(folder, target="cpu", format="gguf", type="Q4_K_M", calibration=calibration)


@pytest.mark.parametrize("share", [0.75, 1.0, 1.4])
def test_the_file_has_the_size_that_was_asked_for(plan: Plan, tmp_path: Path, share: float) -> None:
    target = int(share * plan.file_bytes)
    shared = share_out(plan, tmp_path / "out", target)
    assert shared.file_bytes <= target
    record = api.quantize(shared, tmp_path / "out")
    size = record.files[0].bytes
    # the header is predicted to some hundred bytes, and no tensor of this tiny model is smaller than 2 % of it
    assert target * 0.96 < size < target * 1.005
    assert len({entry.scheme.label for entry in shared.tensors}) > 2
    assert shared.type == "Q4_K_M-mix"
    assert not (tmp_path / "out" / ".prepared").exists()


def test_another_size_takes_the_same_table(plan: Plan, tmp_path: Path) -> None:
    first = share_out(plan, tmp_path / "out", plan.file_bytes)
    before = (tmp_path / "out" / COSTS).read_bytes()
    second = share_out(plan, tmp_path / "out", int(plan.file_bytes * 1.3))
    assert (tmp_path / "out" / COSTS).read_bytes() == before
    assert first.budget is not None
    assert second.budget is not None
    assert 0 < second.budget.predicted_kl < first.budget.predicted_kl
    other = msgspec.structs.replace(plan, calibration=msgspec.structs.replace(plan.calibration, seed=1))
    share_out(other, tmp_path / "out", plan.file_bytes)
    assert (tmp_path / "out" / COSTS).read_bytes() != before


def test_a_plan_that_was_shared_out_stands(plan: Plan, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shared = share_out(plan, out, plan.file_bytes)
    api.quantize(shared, out)
    (out / COSTS).unlink()
    assert share_out(plan, out, plan.file_bytes) == shared


def test_more_bits_cost_less(plan: Plan, tmp_path: Path) -> None:
    share_out(plan, tmp_path / "out", plan.file_bytes)
    table = read_document(CostTable, tmp_path / "out" / COSTS)
    assert len(table.tensors) == 2 * 7 + 2
    for tensor in table.tensors:
        costs = {option.scheme.label: option.cost for option in tensor.options}
        assert costs["Q2_K"] > costs["Q3_K"] > costs["Q4_K"] > costs["Q5_K"] > costs["Q6_K"] > costs["Q8_0"] > 0


def test_a_cost_is_half_the_weighted_square_of_the_error() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((64, 256)).astype(np.float32)
    rows, squares = rng.random(64).astype(np.float32), np.ones(256, dtype=np.float32)
    scheme = GgmlScheme(type="Q4_K")
    found = _costs(weight, rows, squares, squares, [(scheme, 0)], count=10, rows=64)
    error = weight - round_weighted(weight, squares, scheme).decode()
    assert found[0] == pytest.approx(5 * float(rows @ np.square(error).sum(axis=1)), rel=1e-3)


def test_what_cannot_be_shared_out_is_refused(plan: Plan, tmp_path: Path) -> None:
    for target in (plan.file_bytes // 2, 1000):
        with pytest.raises(UsageError, match="with the smallest types the file takes"):
            share_out(plan, tmp_path / "out", target)
    assert not (tmp_path / "out").exists()  # nothing was measured before it was refused
    packed = msgspec.structs.replace(plan, format="awq")
    with pytest.raises(UsageError, match="shared out over GGUF types or over 4 and 8 bits"):
        share_out(packed, tmp_path / "out", plan.file_bytes)


@pytest.fixture
def integers(plan: Plan) -> Plan:
    return api.plan(
        Path(plan.model.path), target="cpu", format="compressed-tensors", bits=4, calibration=plan.calibration
    )


@pytest.mark.parametrize("share", [0.2, 0.5, 1.2])
def test_four_and_eight_bits_are_shared_out_over_what_engines_fuse(
    integers: Plan, tmp_path: Path, share: float
) -> None:
    eight = api.plan(Path(integers.model.path), target="cpu", format="compressed-tensors", bits=8)
    target = int(integers.file_bytes + share * (eight.file_bytes - integers.file_bytes))
    shared = share_out(integers, tmp_path / "out", target)
    assert target * 0.95 < shared.file_bytes <= target  # a fused group of this tiny model is 5 % of it
    labels = {entry.name: entry.scheme.label for entry in shared.tensors}
    assert len({labels[tensor.name] for tensor in shared.tensors if is_block_linear(tensor.name)}) > 1
    for layer in range(2):
        for fused in (("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), ("mlp.gate_proj", "mlp.up_proj")):
            assert len({labels[f"model.layers.{layer}.{module}.weight"] for module in fused}) == 1
    record = api.quantize(shared, tmp_path / "out")
    assert sum(file.bytes for file in record.files) == shared.file_bytes


@pytest.mark.slow
def test_transformers_loads_the_mixture(integers: Plan, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    api.quantize(share_out(integers, tmp_path / "out", int(integers.file_bytes * 1.2)), tmp_path / "out")
    tokens = torch.arange(24)[None] * 11 % 300
    source = open_source(tmp_path / "out")
    ours = AutoModelForCausalLM.from_pretrained(integers.model.path, dtype=torch.float32)
    ours.load_state_dict({name: source.load(name).float() for name in source.names()})
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, ours(tokens).logits, rtol=1e-3, atol=1e-3)


def test_types_without_choices_are_refused(integers: Plan, tmp_path: Path) -> None:
    eight = api.plan(Path(integers.model.path), target="cpu", type="FP8_DYNAMIC", calibration=integers.calibration)
    with pytest.raises(UsageError, match="leaves no type to choose"):
        share_out(eight, tmp_path / "out", integers.file_bytes)


def test_costs_of_other_types_are_measured_anew(plan: Plan, integers: Plan, tmp_path: Path) -> None:
    share_out(plan, tmp_path / "out", plan.file_bytes)
    share_out(integers, tmp_path / "out", int(integers.file_bytes * 1.1))
    table = read_document(CostTable, tmp_path / "out" / COSTS)
    for tensor in table.tensors:
        costs = [option.cost for option in tensor.options]
        assert costs == sorted(costs, reverse=True)
        assert costs[-1] == 0 < costs[-2]  # bf16 loses nothing
