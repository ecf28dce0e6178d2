"""Stored scales of an 8-bit key-value cache: what transformers caches, over 448, under the names that engines read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bitwright import api
from bitwright.core.errors import BitwrightError, UnsupportedError, UsageError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.facts.model import model_facts
from bitwright.formats.sniff import open_source
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
NAMES = {
    "compressed-tensors": ("self_attn.k_scale", "self_attn.v_scale"),
    "fp8": ("self_attn.k_scale", "self_attn.v_scale"),
    "modelopt": ("self_attn.k_proj.k_scale", "self_attn.v_proj.v_scale"),
}
TYPES = {"compressed-tensors": "FP8_DYNAMIC", "fp8": "FP8_TENSOR", "modelopt": "FP8_DYNAMIC"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", hidden=128, intermediate=256, layers=2)


def planned(folder: Path, **choices: Any) -> Plan:
    text = folder.parent / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    calibration = CalibrationPlan(source=(str(text),), samples=3, length=24)
    return make_plan(
        model_facts(folder), DEVICE, use_case="chat", **{"calibration": calibration, "kv_cache": "fp8"} | choices
    )


def cached_peaks(folder: Path, plan: Plan) -> list[tuple[float, float]]:
    """Largest key and value per block in transformers' own cache, of the float model."""
    from transformers import AutoModelForCausalLM

    from bitwright.calibration.corpora import windows_from_files

    spec = plan.calibration
    tokens = windows_from_files(spec.source, folder, spec.samples, spec.length, spec.seed).tokens
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        cache = model(tokens, use_cache=True).past_key_values
    return [(float(layer.keys.abs().max()), float(layer.values.abs().max())) for layer in cache.layers]


@pytest.mark.parametrize("format", NAMES)
def test_scales_are_those_of_transformers_cache(folder: Path, tmp_path: Path, format: str) -> None:
    out = tmp_path / "out"
    plan = planned(folder, format=format, type=TYPES[format], method="rtn")
    record = quantize(plan, folder, out)
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    stored = load_file(out / "model.safetensors")
    for layer, peaks in enumerate(cached_peaks(folder, plan)):
        for name, peak in zip(NAMES[format], peaks, strict=True):
            found = stored[f"model.layers.{layer}.{name}"]
            assert (found.dtype, tuple(found.shape)) == (torch.float32, (1,))
            assert float(found) == pytest.approx(peak / 448, rel=1e-4)
    source = open_source(out)
    assert not any("_scale" in name for name in source.names())
    assert any("the largest magnitude" in note for tensor in record.tensors for note in tensor.notes)
    settings = json.loads((out / "config.json").read_text())["quantization_config"]
    match format:
        case "compressed-tensors":
            from compressed_tensors.quantization import QuantizationConfig

            scheme = QuantizationConfig.model_validate(settings).kv_cache_scheme
            assert scheme is not None
            assert (scheme.num_bits, scheme.type, scheme.strategy, scheme.dynamic) == (8, "float", "tensor", False)
        case "modelopt":
            described = json.loads((out / "hf_quant_config.json").read_text())["quantization"]
            assert described["kv_cache_quant_algo"] == "FP8"
            assert settings["kv_cache_scheme"] == {"dynamic": False, "num_bits": 8, "type": "float"}


def test_feedback_sees_what_rounded_weights_make(folder: Path, tmp_path: Path) -> None:
    plan = planned(folder, format="compressed-tensors", bits=4, group_size=64)
    quantize(plan, folder, tmp_path / "out")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    plain = cached_peaks(folder, plan)
    ratios = [
        float(stored[f"model.layers.{layer}.self_attn.k_scale"]) * 448 / peaks[0] for layer, peaks in enumerate(plain)
    ]
    np.testing.assert_allclose(ratios, 1, atol=0.3)


def test_conversion_says_what_it_leaves(folder: Path, tmp_path: Path) -> None:
    quantize(planned(folder, format="fp8", type="FP8_TENSOR", method="rtn"), folder, tmp_path / "out")
    record = api.convert(tmp_path / "out", "compressed-tensors", tmp_path / "converted")
    assert any("cache are not carried over" in note for note in record.notes)


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"type": "Q4_0"}, UnsupportedError, "gguf files hold no scales"),
        ({"format": "gptq", "bits": 4, "group_size": 64}, UnsupportedError, "gptq files hold no scales"),
        ({"format": "fp8", "kv_cache": "int8"}, UsageError, "unknown type of key-value cache"),
        ({"format": "fp8", "calibration": CalibrationPlan(source=())}, UsageError, "observed on calibration text"),
    ],
)
def test_what_cannot_be(folder: Path, choices: dict[str, Any], error: type[BitwrightError], message: str) -> None:
    with pytest.raises(error, match=message):
        planned(folder, **choices)


def test_the_plan_halves_the_cache(folder: Path) -> None:
    with_scales, without = (planned(folder, format="fp8", kv_cache=kind) for kind in ("fp8", None))
    assert with_scales.memory.kv_cache * 2 == without.memory.kv_cache
    assert with_scales.launch[-2:] == ("--kv-cache-dtype", "fp8")
