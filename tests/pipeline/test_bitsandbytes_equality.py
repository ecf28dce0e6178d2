"""A whole folder, held against the one that transformers and bitsandbytes write from the same checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from bitwright.core.plan import DeviceFacts
from bitwright.facts.model import model_facts
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
FOUR = {"load_in_4bit": True, "bnb_4bit_compute_dtype": torch.bfloat16}
CASES = {
    "NF4": FOUR | {"bnb_4bit_quant_type": "nf4"},
    "NF4_DQ": FOUR | {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "FP4": FOUR | {"bnb_4bit_quant_type": "fp4"},
    "FP4_DQ": FOUR | {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    "LLM.int8": {"load_in_8bit": True},
}


@pytest.mark.parametrize("type", CASES)
def test_every_stored_tensor_is_theirs(tmp_path: Path, type: str) -> None:
    folder = write_checkpoint(tmp_path / "model", hidden=192, intermediate=320, layers=2)
    quantize(make_plan(model_facts(folder), DEVICE, use_case="chat", type=type), folder, tmp_path / "ours")
    settings = BitsAndBytesConfig(**CASES[type])
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=settings)
    model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if "quant_state" in name:
            assert json.loads(bytes(ours[name].numpy())) == json.loads(bytes(tensor.numpy()))
        else:
            assert ours[name].dtype == tensor.dtype, name
            # without floats' own equality, so that the sign of zero counts
            assert torch.equal(ours[name].view(torch.uint8), tensor.contiguous().view(torch.uint8)), name
    configs = [
        json.loads((tmp_path / name / "config.json").read_text())["quantization_config"] for name in ("ours", "theirs")
    ]
    # which modules are left out is decided by transformers itself where the config is silent; we say it
    used = {key for key in configs[1] if key not in ("llm_int8_skip_modules", "bnb_4bit_quant_storage")}
    if type == "LLM.int8":
        used -= {key for key in used if "4bit_" in key}
    assert {key: configs[0].get(key) for key in used} == {key: configs[1][key] for key in used}
