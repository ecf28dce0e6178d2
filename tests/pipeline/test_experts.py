"""Mixtures of experts through every door: types, budgets, importance matrices, float GGUF files, verdicts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright import api
from bitwright.calibration.statistics import InputStatistics
from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import CalibrationPlan, Plan
from bitwright.facts.families import FAMILIES, expert_of, gguf_tensor
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.formats.ggml.imatrix import read_imatrix
from bitwright.formats.ggml.reader import GgufSource
from bitwright.formats.sniff import gguf_file, open_source
from bitwright.modeling.walk import Walker
from bitwright.pipeline.expert_inputs import blended
from checkpoints import MIXTURES, write_checkpoint
from command_line import text_file


@pytest.fixture
def text(tmp_path: Path) -> Path:
    return text_file(tmp_path / "text.txt")


def checkpoint(tmp_path: Path, family: str, **others: object) -> Path:
    shape = {"hidden": 256, "heads": 4, "kv_heads": 2, "intermediate": 256} | others
    return write_checkpoint(tmp_path / "model", family, **shape)


def plan_for(folder: Path, text: Path, **choices: object) -> Plan:
    calibration = CalibrationPlan(source=(str(text),), samples=6, length=32)
    return api.plan(folder, target="cpu", calibration=calibration, **choices)


@pytest.mark.parametrize("family", MIXTURES)
def test_from_plan_to_verdict(family: str, tmp_path: Path, text: Path) -> None:
    folder = checkpoint(tmp_path, family)
    record = api.quantize(plan_for(folder, text, type="Q6_K"), tmp_path / "out")
    seen = record.experts
    assert seen is not None
    tokens = {tensor.tokens for tensor in record.tensors if expert_of(tensor.name) is not None}
    assert (seen.experts, seen.fewest_tokens, seen.most_tokens) == (8, min(tokens), max(tokens))
    assert seen.covered == sum(
        tensor.tokens >= 64 for tensor in record.tensors if tensor.name.endswith((".w2.weight", ".down_proj.weight"))
        if tensor.tokens is not None
    )  # fmt: skip
    other = tmp_path / "other.txt"
    other.write_text("Sphinx of black quartz, judge my vow; pack my box with five dozen jugs. " * 40)
    verdict = api.validate(tmp_path / "out", folder, texts=[other], windows=4, length=32)
    assert verdict.texts[0].kl_mean.value < 0.1


@pytest.mark.parametrize("type", ["FP8_DYNAMIC", "FP8", "W8A8", "NVFP4", "MXFP4A16"])
def test_types_with_rounded_inputs(type: str, tmp_path: Path, text: Path) -> None:
    folder = checkpoint(tmp_path, "qwen3_moe", layers=1)
    record = api.quantize(plan_for(folder, text, format="compressed-tensors", type=type), tmp_path / "out")
    source = CompressedTensorsSource(tmp_path / "out")
    walker = Walker(source)
    hidden = walker.run_block(0, walker.embed(torch.arange(64).reshape(2, 32)))
    assert bool(torch.isfinite(hidden).all())
    assert max(tensor.weight_error for tensor in record.tensors) < 0.05
    assert source.input_rounding("model.layers.0.mlp.gate") is None
    assert (source.input_rounding("model.layers.0.mlp.experts.1.down_proj") is None) == (type == "MXFP4A16")


@pytest.mark.parametrize(
    ("family", "format", "type"),
    [("qwen3_moe", "fp8", "FP8_BLOCK"), ("qwen3_moe", "modelopt", "FP8"), ("mixtral", "fp8", "FP8"),
     ("mixtral", "modelopt", "NVFP4"), ("qwen2_moe", "fp8", "FP8_BLOCK")],
)  # fmt: skip
def test_folders_of_small_floats_hold_experts(family: str, format: str, type: str, tmp_path: Path, text: Path) -> None:
    folder = checkpoint(tmp_path, family, layers=1)
    plan = plan_for(folder, text, format=format, type=type, method="rtn")
    assert any("largest of their input scales" in warning for warning in plan.warnings) == (type != "FP8_BLOCK")
    record = api.quantize(plan, tmp_path / "out")
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    original, source = CheckpointSource(folder), open_source(tmp_path / "out")
    assert source.facts.experts == original.facts.experts
    for name in source.names():
        before, after = original.load(name).float(), source.load(name).float()
        assert float((after - before).norm()) <= 0.15 * float(before.norm())
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    kept = config.get("modules_to_not_convert") or config["ignore"]
    router = f"model.layers.0.{'block_sparse_moe' if family == 'mixtral' else 'mlp'}.gate"
    assert router in kept
    moved = api.convert(tmp_path / "out", "compressed-tensors", tmp_path / "other")
    assert moved.tensors >= 4 * 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", MIXTURES)
def test_transformers_reads_experts_of_fp8_folders(family: str, tmp_path: Path, text: Path) -> None:
    """It stacks the experts of a block, and widens their weights where no GPU is."""
    from transformers import AutoModelForCausalLM

    folder = checkpoint(tmp_path, family, layers=1)
    plan = plan_for(folder, text, format="fp8", type="FP8_BLOCK", method="rtn")
    api.quantize(plan, tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.bfloat16)
    theirs, source = dict(model.named_parameters()), open_source(tmp_path / "out")
    block = "model.layers.0.mlp.experts."
    names = ("w1", "w3", "w2") if family == "mixtral" else ("gate_proj", "up_proj", "down_proj")
    stored = block.replace("mlp", "block_sparse_moe") if family == "mixtral" else block
    for expert in range(4):
        gate, up, down = (source.load(f"{stored}{expert}.{name}.weight").bfloat16() for name in names)
        assert torch.equal(theirs[f"{block}gate_up_proj"][expert], torch.cat([gate, up]))
        assert torch.equal(theirs[f"{block}down_proj"][expert], down)


def test_a_byte_budget_gives_all_experts_of_a_block_one_type(tmp_path: Path, text: Path) -> None:
    folder = checkpoint(tmp_path, "qwen2_moe")
    plan = plan_for(folder, text, type="Q4_K_M")
    shared = api.share_out(plan, tmp_path / "out", int(1.2 * plan.file_bytes))
    types: dict[str, set[str]] = {}
    for entry in shared.tensors:
        types.setdefault(gguf_tensor(entry.stored_name), set()).add(entry.scheme.label)
    assert all(len(kinds) == 1 for kinds in types.values())
    assert len({kind for kinds in types.values() for kind in kinds}) > 2
    record = api.quantize(shared, tmp_path / "out")
    assert plan.file_bytes < record.files[0].bytes < 1.205 * plan.file_bytes


@pytest.mark.parametrize("family", MIXTURES)
def test_an_importance_matrix_holds_a_row_per_expert(family: str, tmp_path: Path, text: Path) -> None:
    folder = checkpoint(tmp_path, family)
    out = tmp_path / "m.gguf"
    api.imatrix(folder, out, calibration=CalibrationPlan(source=(str(text),), samples=3, length=32))
    held = read_imatrix(out).entries["blk.1.ffn_down_exps.weight"]
    assert held.sums_EI.shape == (4, 256)
    assert held.counts_E.sum() == 2 * 96
    calibration = CalibrationPlan(source=(), imatrix=str(out))
    record = api.quantize(api.plan(folder, target="cpu", type="Q4_K_M", calibration=calibration), tmp_path / "q")
    assert record.experts is None
    assert all(tensor.weight_error < 0.02 for tensor in record.tensors)


@pytest.mark.parametrize("family", MIXTURES)
def test_a_float_gguf_file_is_a_model_too(family: str, tmp_path: Path, text: Path) -> None:
    folder = checkpoint(tmp_path, family, dtype="F16")
    api.quantize(plan_for(folder, text, type="F16"), tmp_path / "f16")
    floats = gguf_file(tmp_path / "f16")
    sampled = CalibrationPlan(samples=4, length=32)  # text that the model writes itself
    record = api.quantize(api.plan(floats, target="cpu", type="Q8_0", calibration=sampled), tmp_path / "out")
    assert record.experts is not None
    before, after = GgufSource(floats), GgufSource(gguf_file(tmp_path / "out"))
    assert before.facts.experts == after.facts.experts == model_facts(folder).experts
    for name in before.names():
        bare = before.load(name).numpy()
        assert np.abs(after.load(name).numpy()).max() > 0
        assert bare.shape == after.load(name).numpy().shape
    assert FAMILIES[before.facts.family].name == family


def test_what_engines_cannot_run_is_refused(tmp_path: Path, text: Path) -> None:
    folder = checkpoint(tmp_path, "qwen3_moe")
    for format in ("gptq", "awq", "bitsandbytes"):
        with pytest.raises(UnsupportedError, match="mixtures of experts"):
            plan_for(folder, text, format=format)
    other = write_checkpoint(tmp_path / "other", "qwen3_moe", hidden=256, overrides={"norm_topk_prob": False})
    with pytest.raises(UnsupportedError, match="norm_topk_prob False"):
        api.quantize(plan_for(other, text, type="F16"), tmp_path / "out")


def test_the_layer_weighs_one_token_per_input() -> None:
    rows = torch.randn(40, 8, generator=torch.Generator().manual_seed(0))
    own, layer, nothing = InputStatistics(8), InputStatistics(8), InputStatistics(8)
    own.add(rows[:24])
    layer.add(rows)
    expected = (24 * own.gram("own") + 8 * layer.gram("layer")) / (24 + 8)
    np.testing.assert_allclose(blended(own, layer, "both"), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(blended(nothing, layer, "none"), layer.gram("layer"))
