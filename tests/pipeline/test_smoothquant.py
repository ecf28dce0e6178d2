"""SmoothQuant through a whole run: a block computes the same, outputs under rounded inputs come closer."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.core.errors import UsageError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.core.records import QuantRecord
from bitwright.facts.blocks import block_folds, block_groups
from bitwright.facts.families import BLOCK, FAMILIES, is_block_linear
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.modeling.walk import Walker
from bitwright.pipeline.rescale import rescale_block, smoothed_groups
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from bitwright.quantize.smoothing import InputSample
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
PREFIX = BLOCK.format(layer=0)


def plan_of(folder: Path, **choices: object) -> Plan:
    text = folder.parent / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 120)
    calibration = CalibrationPlan(source=(str(text),), samples=6, length=32)
    return make_plan(
        model_facts(folder), DEVICE, use_case="chat", format="compressed-tensors", calibration=calibration, **choices
    )


@pytest.mark.parametrize("family", list(FAMILIES))
def test_the_block_computes_the_same(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family=family, hidden=256, heads=8, kv_heads=2, intermediate=256)
    source = CheckpointSource(folder)
    facts, walker = source.facts, Walker(source)
    bare, block = walker.load_block(0), walker.load_block(0)
    plans = {entry.name: entry for entry in plan_of(folder, type="W8A8", method="smoothquant").tensors}
    rng = np.random.default_rng(0)
    squares, samples = {}, {}
    for group in block_groups(facts, 0):
        columns = block.get_parameter(f"{group.leader}.weight").shape[1]
        rows = (rng.standard_normal((32, columns)) * np.exp(1.5 * rng.standard_normal(columns))).astype("f4")
        squares[group.name] = np.square(rows).mean(axis=0)
        samples[group.name] = InputSample(
            rows_NI=rows, weights_N=np.ones(32, dtype="f4"), amax_I=np.abs(rows).max(axis=0)
        )
    folds = block_folds(facts, 0)
    assert smoothed_groups(folds, plans, PREFIX) == {fold.group for fold in folds}
    notes, _ = rescale_block(
        block, squares, plans, PREFIX, folds, heads=facts.heads, kv_heads=facts.kv_heads,
        norm_offset=FAMILIES[family].norm_offset, samples=samples,
    )  # fmt: skip
    linears = [name for name in FAMILIES[family].block_tensors(0, facts.experts) if is_block_linear(name)]
    assert set(notes) == set(linears)
    assert any("SmoothQuant, alpha 0." in note for note in notes.values())
    hidden = torch.randn(2, 16, 256, generator=torch.Generator().manual_seed(0))
    expected, found = walker.forward(bare, hidden), walker.forward(block, hidden)
    assert float((found - expected).norm() / expected.norm()) < 1e-5
    for name, parameter in block.named_parameters():  # what is stored as bfloat16 is that exactly
        if f"{PREFIX}{name}" not in linears and name.endswith(("norm.weight", "v_proj.bias", "gate.weight")):
            assert torch.equal(parameter.bfloat16().float(), parameter), name


@pytest.fixture(scope="module")
def loud_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose norms make a few channels sixty times as loud as the others; the readers undo it."""
    from safetensors.torch import load_file, save_file

    folder = write_checkpoint(tmp_path_factory.mktemp("loud") / "model", hidden=128, intermediate=256, layers=1)
    tensors = load_file(folder / "model.safetensors")
    for norm, readers in (
        ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
        ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
    ):
        tensors[f"{PREFIX}{norm}.weight"][::40] *= 64
        for reader in readers:
            tensors[f"{PREFIX}{reader}.weight"][:, ::40] /= 64
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def error_of(folder: Path, out: Path) -> float:
    """Of the block's outputs, relative, with inputs rounded."""
    hidden = torch.randn(4, 32, 128, generator=torch.Generator().manual_seed(0))
    expected = Walker(CheckpointSource(folder)).run_block(0, hidden)
    found = Walker(CompressedTensorsSource(out)).run_block(0, hidden)
    return float((found - expected).norm() / (expected - hidden).norm())


def made(folder: Path, out: Path, **choices: object) -> QuantRecord:
    return quantize(plan_of(folder, **choices), folder, out)


@pytest.mark.parametrize("name", ["W8A8", "W8A8_STATIC", "MXFP4"])
def test_outputs_come_closer(loud_folder: Path, tmp_path: Path, name: str) -> None:
    record = made(loud_folder, tmp_path / "smooth", type=name, method="smoothquant")
    made(loud_folder, tmp_path / "rtn", type=name, method="rtn")
    assert {tensor.method for tensor in record.tensors} == {"smoothquant", "cast"}
    gain = error_of(loud_folder, tmp_path / "smooth") / error_of(loud_folder, tmp_path / "rtn")
    assert gain < (0.9 if name == "MXFP4" else 0.6)


def test_a_stored_scale_of_floats_gains_too_little(loud_folder: Path, tmp_path: Path) -> None:
    record = made(loud_folder, tmp_path / "out", type="FP8", method="smoothquant")
    assert {tensor.notes for tensor in record.tensors} == {()}


@pytest.mark.parametrize(
    ("method", "effort", "smoothed"), [("gptq", "balanced", 1), ("awq", "fast", 1), ("gptq", "fast", 0)]
)
def test_other_methods_smooth_rounded_inputs_too(
    loud_folder: Path, tmp_path: Path, method: str, effort: str, smoothed: int
) -> None:
    record = made(loud_folder, tmp_path / "out", type="W8A8", method=method, effort=effort)
    notes = [note for tensor in record.tensors for note in tensor.notes]
    assert any("SmoothQuant" in note for note in notes) == bool(smoothed)


def test_types_that_leave_inputs_alone_are_refused(loud_folder: Path) -> None:
    with pytest.raises(UsageError, match="leave the inputs of W4A16") as caught:
        plan_of(loud_folder, type="W4A16", method="smoothquant")
    assert caught.value.hint is not None
    assert "W8A8" in caught.value.hint
    assert "NVFP4A16" not in caught.value.hint
    with pytest.raises(UsageError, match="leave the inputs of Q4_K_M"):
        make_plan(model_facts(loud_folder), DEVICE, use_case="chat", type="Q4_K_M", method="smoothquant")


@pytest.mark.parametrize(
    ("family", "method", "effort"),
    [("mixtral", "smoothquant", "balanced"), ("qwen2_moe", "gptq", "balanced"), ("llama", "gptq", "best")],
)
def test_experts_and_weighed_tokens(tmp_path: Path, family: str, method: str, effort: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family=family, hidden=128, intermediate=128, layers=1)
    record = made(folder, tmp_path / "out", type="W8A8", method=method, effort=effort)
    made(folder, tmp_path / "rtn", type="W8A8", method="rtn")
    assert all("columns times" in tensor.notes[0] for tensor in record.tensors if tensor.method != "cast")
    # random routers send a few tokens elsewhere at the slightest change, scaled or not
    assert error_of(folder, tmp_path / "out") < 1.5 * error_of(folder, tmp_path / "rtn") < 0.15
