"""`--observer`: what is stored is what the observer says of everything that enters the linear, and plans say so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig
from safetensors.torch import load_file

from bitwright.calibration.corpora import windows_from_files
from bitwright.calibration.observers import Observer
from bitwright.calibration.sharing import Sharing
from bitwright.core.documents import to_json
from bitwright.core.plan import CalibrationPlan, DeviceFacts, ObserverRule, Plan
from bitwright.core.records import QuantRecord
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.modeling.walk import Walker
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
BLOCK = "model.layers.0."
READERS = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
HALVES = {"W8A8_STATIC": ("int8", 127.5), "FP8": ("e4m3", 448.0)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("checkpoint")
    (place / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 120)
    return write_checkpoint(place / "model", hidden=128, intermediate=256, layers=1)


def planned(folder: Path, type: str, **choices: Any) -> Plan:
    calibration = CalibrationPlan(source=(str(folder.parent / "text.txt"),), samples=6, length=32)
    return make_plan(
        model_facts(folder), DEVICE, use_case="chat", type=type,
        **{"calibration": calibration, "format": "compressed-tensors", "method": "rtn"} | choices,
    )  # fmt: skip


def stored(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model.safetensors")


def entering(folder: Path) -> dict[str, np.ndarray]:
    """All that enters the linears of the block."""
    walker = Walker(CheckpointSource(folder))
    block = walker.load_block(0)
    seen: dict[str, np.ndarray] = {}
    for name in READERS:

        def hook(_module: object, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
            seen[name] = inputs[0].numpy()

        block.get_submodule(name).register_forward_pre_hook(hook)
    walker.forward(block, walker.embed(windows_from_files([str(folder.parent / "text.txt")], folder, 6, 32, 0).tokens))
    return seen


@pytest.mark.parametrize("rule", ["percentile", "mse", "entropy"])
@pytest.mark.parametrize("type", HALVES)
def test_the_stored_scale_is_the_observers(folder: Path, tmp_path: Path, type: str, rule: ObserverRule) -> None:
    share = 99.0 if rule == "percentile" else None
    record = quantize(planned(folder, type, observer=rule, percentile=share), folder, tmp_path / "out")
    assert (record.plan.observer, record.plan.percentile) == (rule, share or 99.99)
    element, half = HALVES[type]
    tensors = stored(tmp_path / "out")
    smaller = 0
    for name, values in entering(folder).items():
        observer = Observer(rule, Sharing(), percentile=share or 99.99)
        observer.add(values)
        found = float(tensors[f"{BLOCK}{name}.input_scale"])
        assert found == pytest.approx(observer.peak(element) / half, rel=2**-8)
        smaller += found * half < 0.9 * float(np.abs(values).max())
    assert smaller or rule != "percentile"  # nothing here is worth clipping to a search
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    inputs = QuantizationConfig.model_validate(config).config_groups["group_0"].input_activations
    assert inputs is not None
    assert inputs.observer == rule
    if share:
        assert inputs.observer_kwargs == {"percentile": share}


@pytest.mark.parametrize("method", ["gptq", "smoothquant", pytest.param("zeroquant", marks=pytest.mark.slow)])
def test_every_method_watches_what_the_stored_weights_see(folder: Path, tmp_path: Path, method: str) -> None:
    """All values are kept: the same scale as `minmax`, by another way; fewer: smaller ones."""
    scales = {}
    for share in (None, 100.0, 95.0):
        out = tmp_path / f"{share}"
        choices = {} if share is None else {"observer": "percentile", "percentile": share}
        quantize(planned(folder, "W8A8_STATIC", method=method, **choices), folder, out)
        scales[share] = [float(stored(out)[f"{BLOCK}{name}.input_scale"]) for name in READERS]
    np.testing.assert_allclose(scales[100.0], scales[None], rtol=2**-7)
    assert (np.divide(scales[95.0], scales[None]) < 0.9).all()


def test_experts_are_watched(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 120)
    folder = write_checkpoint(tmp_path / "model", "qwen3_moe", hidden=64, intermediate=64, layers=1)
    scales = {}
    for method in ("rtn", "gptq"):
        for share in (100.0, 95.0):
            out = tmp_path / f"{method}{share}"
            plan = planned(folder, "FP8", observer="percentile", percentile=share, method=method)
            quantize(plan, folder, out)
            scales[method, share] = [float(t) for name, t in stored(out).items() if name.endswith("input_scale")]
    for method in ("rtn", "gptq"):
        assert len(scales[method, 95.0]) == 4 + 4 * 3
        assert (np.divide(scales[method, 95.0], scales[method, 100.0]) < 1).mean() > 0.9


@pytest.mark.parametrize("type", ["NVFP4", "FP8_DYNAMIC"])
def test_nvfp4_and_the_cache(folder: Path, tmp_path: Path, type: str) -> None:
    plans = [planned(folder, type, kv_cache="fp8", **more) for more in ({}, {"percentile": 99.0})]
    assert plans[1].observer == "percentile"
    for number, plan in enumerate(plans):
        record = quantize(plan, folder, tmp_path / str(number))
    whole, cut = (stored(tmp_path / str(number)) for number in range(2))
    for name in ("k_scale", "v_scale"):
        assert 0.3 < float(cut[f"{BLOCK}self_attn.{name}"] / whole[f"{BLOCK}self_attn.{name}"]) < 0.99
    assert any("the scale reaches to" in note for tensor in record.tensors for note in tensor.notes)
    config = json.loads((tmp_path / "1" / "config.json").read_text())["quantization_config"]
    assert config["kv_cache_scheme"]["observer"] == "percentile"
    if type == "NVFP4":  # a factor, of which blocks' own scales are parts: the smaller the peak, the larger
        name = f"{BLOCK}mlp.down_proj.input_global_scale"
        assert float(cut[name]) > float(whole[name])


def test_the_default_is_the_largest_magnitude_and_its_bytes(folder: Path, tmp_path: Path) -> None:
    records: list[QuantRecord] = []
    for choices in ({}, {"observer": "minmax"}):
        plan = planned(folder, "W8A8_STATIC", **choices)
        assert b'"observer": "minmax"' in to_json(plan)
        records.append(quantize(plan, folder, tmp_path / f"{len(records)}"))
    assert records[0].files == records[1].files
