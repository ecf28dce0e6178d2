"""From a model to its importance matrix, and from an importance matrix to an artifact."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from bitwright import api
from bitwright.api.making import calibration_plan
from bitwright.calibration.corpora import windows_from_files
from bitwright.core.errors import MismatchError, UsageError
from bitwright.facts.families import HEAD, gguf_name
from bitwright.formats.ggml.imatrix import Entry, ImportanceMatrix, read_imatrix, write_imatrix
from bitwright.formats.ggml.reader import GgufSource
from bitwright.formats.sniff import gguf_file
from checkpoints import write_checkpoint
from command_line import text_file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", "qwen2", hidden=256, heads=4, kv_heads=2, intermediate=256, layers=2)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path / "text.txt")


def test_the_sums_are_those_of_transformers(folder: Path, text: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    out = tmp_path / "m.gguf"
    record = api.imatrix(folder, out, calibration=calibration_plan([str(text)], 3, 32, 0))
    found = read_imatrix(out)
    windows = windows_from_files([str(text)], folder, 3, 32)
    assert (record.tokens, record.calibration_sha256, found.chunks) == (96, windows.sha256, 3)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sums: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _module, args, name=name: sums.update({name: args[0].double().square().sum(dim=(0, 1))})
            )
    with torch.no_grad():
        model(windows.tokens)
    assert {gguf_name(f"{name}.weight") for name in sums} == found.entries.keys()
    for name, expected in sums.items():
        entry = found.entries[gguf_name(f"{name}.weight")]
        np.testing.assert_array_equal(entry.counts_E, [96])
        np.testing.assert_allclose(entry.sums_EI[0], expected.numpy(), rtol=2e-3, atol=1e-3)


def weighted_errors(out: Path, folder: Path, weights: dict[str, np.ndarray]) -> float:
    from bitwright.formats.checkpoint import CheckpointSource

    decoded, original = GgufSource(gguf_file(out)), CheckpointSource(folder)
    return sum(
        float((np.square((decoded.load(name) - original.load(name).float()).numpy()) * weight).sum())
        for name, weight in weights.items()
    )


def test_a_foreign_matrix_steers_the_scale_search(folder: Path, text: Path, tmp_path: Path) -> None:
    """Errors, weighed as the file says, are lower than those of a run that knows nothing."""
    rng = np.random.default_rng(3)
    names = [f"model.layers.{layer}.mlp.{part}_proj.weight" for layer in range(2) for part in ("gate", "up", "down")]
    weights = {name: np.exp(3 * rng.standard_normal(256)).astype(np.float32) for name in names}
    flat = {name: np.ones(256, dtype=np.float32) for name in names}
    errors = {}
    for label, held in (("steered", weights), ("flat", flat)):
        entries = {
            gguf_name(name): Entry(sums_EI=8 * value[None], counts_E=np.array([8], dtype=np.float32))
            for name, value in held.items()
        }
        write_imatrix(ImportanceMatrix(entries=entries), tmp_path / f"{label}.gguf")
        calibration = calibration_plan((), 1, 8, 0, imatrix=tmp_path / f"{label}.gguf")
        plan = api.plan(folder, type="Q4_K_M", calibration=calibration)
        assert plan.method == "rtn"
        record = api.quantize(plan, tmp_path / label)
        errors[label] = weighted_errors(tmp_path / label, folder, weights)
        said = {tensor.name for tensor in record.tensors if any("does not speak" in note for note in tensor.notes)}
        assert HEAD in said
        assert not said & set(names)
    assert errors["steered"] < 0.8 * errors["flat"]


def test_a_matrix_of_another_model_or_method_is_refused(folder: Path, text: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.gguf"
    entry = Entry(sums_EI=np.ones((1, 64), dtype=np.float32), counts_E=np.ones(1, dtype=np.float32))
    write_imatrix(ImportanceMatrix(entries={"blk.0.ffn_up.weight": entry}), out)
    calibration = calibration_plan((), 1, 8, 0, imatrix=out)
    with pytest.raises(UsageError, match="how inputs go together"):
        api.plan(folder, type="Q4_K_M", method="gptq", calibration=calibration)
    plan = api.plan(folder, type="Q4_K_M", calibration=calibration)
    with pytest.raises(MismatchError, match="the model has 256"):
        api.quantize(plan, tmp_path / "out")
    changed = msgspec.structs.replace(calibration, content_sha256=("0" * 64,))
    with pytest.raises(MismatchError, match="has changed"):
        api.quantize(msgspec.structs.replace(plan, calibration=changed), tmp_path / "new")
