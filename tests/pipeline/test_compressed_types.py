"""Every named type of compressed-tensors from checkpoint to artifact, read back by the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.calibration.corpora import windows_from_files
from bitwright.core.plan import CalibrationPlan, DeviceFacts, ModelFacts
from bitwright.evaluation.validate import validate
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.families import LINEARS
from bitwright.facts.model import model_facts
from bitwright.facts.thresholds import thresholds
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.modeling.walk import Walker
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
BLOCK = "model.layers.0."
TYPES = [*COMPRESSED_TYPES, "W3A16", "W6A16"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    (place / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 120)
    return write_checkpoint(place / "model", hidden=256, intermediate=384, layers=1)


def made(folder: Path, out: Path, name: str, method: str) -> tuple[CompressedTensorsSource, dict[str, float]]:
    """The artifact, and the weight error that its record claims of every matrix."""
    calibration = CalibrationPlan(source=(str(folder.parent / "text.txt"),), samples=6, length=32)
    plan = make_plan(
        model_facts(folder), DEVICE, use_case="chat", format="compressed-tensors", type=name, method=method,
        calibration=calibration,
    )  # fmt: skip
    record = quantize(plan, folder, out)
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    assert {tensor.method for tensor in record.tensors} == {method, "cast"}
    errors = {tensor.name: tensor.weight_error for tensor in record.tensors if tensor.method != "cast"}
    return CompressedTensorsSource(out), errors


@pytest.mark.parametrize("name", TYPES)
def test_the_library_decodes_what_was_solved(folder: Path, tmp_path: Path, name: str) -> None:
    artifact, errors = made(folder, tmp_path / "out", name, "rtn")
    original = CheckpointSource(folder)
    assert len(errors) == 7
    for tensor, claimed in errors.items():
        weight = original.load(tensor).float().numpy()
        found = np.square(artifact.load(tensor).numpy() - weight).sum() / np.square(weight).sum()
        assert found == pytest.approx(claimed, rel=1e-3)


@pytest.mark.parametrize(("name", "part"), [("NVFP4", "weight_global_scale"), ("FP8", "weight_scale")])
def test_linears_that_engines_fuse_share_their_scale(folder: Path, tmp_path: Path, name: str, part: str) -> None:
    from safetensors.torch import load_file

    artifact, _ = made(folder, tmp_path / "out", name, "gptq")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    scales = {group: {float(stored[f"{BLOCK}{module}.{part}"]) for module in LINEARS[group]} for group in LINEARS}
    assert {len(values) for values in scales.values()} == {1}
    assert len(set.union(*scales.values())) == 4
    roundings = [artifact.input_rounding(f"{BLOCK}{module}") for module in LINEARS["attn_in"]]
    assert roundings[0] is not None
    assert roundings[0].scale is not None
    assert roundings[0] == roundings[1] == roundings[2]


def test_the_stored_scale_of_inputs_is_that_of_the_largest_one(folder: Path, tmp_path: Path) -> None:
    artifact, _ = made(folder, tmp_path / "out", "FP8", "rtn")
    walker = Walker(CheckpointSource(folder))
    windows = windows_from_files([str(folder.parent / "text.txt")], folder, 6, 32, 0)
    seen: list[torch.Tensor] = []
    block = walker.load_block(0)
    block.get_submodule("self_attn.q_proj").register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    walker.forward(block, walker.embed(windows.tokens))
    rounding = artifact.input_rounding(f"{BLOCK}self_attn.q_proj")
    assert rounding is not None
    assert rounding.scale == pytest.approx(float(seen[0].abs().max()) / 448, rel=2**-8)


class WeightsAlone:
    """An artifact that keeps silent about its inputs."""

    def __init__(self, source: CompressedTensorsSource) -> None:
        self._source = source
        self.config, self.names, self.load = source.config, source.names, source.load

    @property
    def facts(self) -> ModelFacts:
        return self._source.facts


@pytest.mark.parametrize("name", ["W8A8", "FP8_DYNAMIC", "NVFP4"])
def test_the_walk_of_an_artifact_rounds_its_inputs(folder: Path, tmp_path: Path, name: str) -> None:
    artifact, _ = made(folder, tmp_path / "out", name, "rtn")
    tokens = torch.randint(0, 320, (4, 32), generator=torch.Generator().manual_seed(0))

    def output(source: object) -> torch.Tensor:
        walker = Walker(source)
        return walker.run_block(0, walker.embed(tokens))

    bare, weights, both = output(CheckpointSource(folder)), output(WeightsAlone(artifact)), output(artifact)
    assert float((both - bare).norm()) > 1.1 * float((weights - bare).norm()) > 0


def test_the_verdict_says_that_inputs_were_rounded(folder: Path, tmp_path: Path) -> None:
    artifact, _ = made(folder, tmp_path / "out", "W8A8", "rtn")
    text = windows_from_files([str(folder.parent / "text.txt")], folder, 4, 32, 1)
    record = validate(
        CheckpointSource(folder), artifact, [text], thresholds=thresholds("chat"), decode=str,
        decoder="compressed-tensors", files=(), command="",
    )  # fmt: skip
    assert "inputs of linears were rounded as engines round them: int8 per token, dynamic" in record.notes
