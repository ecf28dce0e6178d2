"""Sound artifacts of a small real model, in every format that defects are planted in; each is made once.

The model is the first two blocks of the wide demo model under its first tokens (cells/model.py). Two variants: `biased`
is the same as a Qwen2, with biases on q, k and v; `tied` has its embedding for a head.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from bitwright import api
from bitwright.core.plan import CalibrationPlan
from bitwright.core.records import ValidationRecord
from cells.model import LAYERS, write_first_blocks

WEIGHTS, CONFIG = "model.safetensors", "config.json"
TEXT = "The quick brown fox jumps over the lazy dog, and nobody asks it why. In the year 1984 four bees made honey. "
FITTED = {"calibration": True}
WINDOWS, LENGTH = 12, 48  # that artifacts are judged on
# name: (variant, what is asked for, use case that it is judged by)
SOUND: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "Q8_0": ("plain", {"format": "gguf", "type": "Q8_0"}, "medical-legal"),
    "Q6_K": ("plain", {"format": "gguf", "type": "Q6_K"}, "code"),
    "Q5_K_M": ("plain", {"format": "gguf", "type": "Q5_K_M"}, "chat"),
    "Q4_K_M": ("plain", {"format": "gguf", "type": "Q4_K_M", "method": "gptq", **FITTED}, "chat"),
    "IQ4_XS": ("plain", {"format": "gguf", "type": "IQ4_XS"}, "summarization"),
    "FP8": ("plain", {"format": "compressed-tensors", "type": "FP8_DYNAMIC"}, "chat"),
    "W8A16": ("tied", {"format": "compressed-tensors", "bits": 8, "group_size": 32}, "medical-legal"),
    "W4A16": (
        "plain",
        {"format": "compressed-tensors", "bits": 4, "group_size": 32, "method": "gptq", "kv_cache": "fp8", **FITTED},
        "summarization",
    ),
    "GPTQ": (
        "biased",
        {"format": "gptq", "bits": 4, "group_size": 32, "method": "gptq", "act_order": "group", **FITTED},
        "summarization",
    ),
    "AWQ": ("plain", {"format": "awq", "bits": 4, "group_size": 32, "method": "awq", **FITTED}, "summarization"),
    "NF4": ("plain", {"format": "bitsandbytes", "type": "NF4"}, "summarization"),
    "INT8": ("plain", {"format": "bitsandbytes", "type": "LLM.int8"}, "chat"),
}


class Shelf:
    """References and artifacts in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.text = folder / "text.txt"
        self.text.write_text(TEXT * 60)

    def reference(self, variant: str) -> Path:
        """The model that artifacts of a variant are made from."""
        place = self.folder / "models" / variant
        if not place.exists():
            if variant == "plain":
                place.parent.mkdir()
                write_first_blocks(place)
                shutil.copy(place.with_name("whole") / "chat_template.jinja", place)
            else:
                shutil.copytree(self.reference("plain"), place)
                {"biased": add_biases, "tied": tie}[variant](place)
        return place

    def artifact(self, name: str) -> Path:
        """The folder of a sound artifact."""
        out = self.folder / "sound" / name
        variant, asked, _ = SOUND[name]
        if not out.exists():
            choices = {"method": "rtn", **asked}
            fitted = choices.pop("calibration", False)
            text = CalibrationPlan(source=(str(self.text),) if fitted else (), samples=4, length=64)
            plan = api.plan(self.reference(variant), calibration=text, **choices)
            api.quantize(plan, out)
        return out

    def file(self, name: str, folder: Path | None = None) -> Path:
        """What `validate` is given: the GGUF file, or the folder."""
        place = folder or self.artifact(name)
        return next(place.glob("*.gguf"), place)

    def copy(self, name: str, out: Path) -> Path:
        """A copy of a sound artifact to plant something in."""
        shutil.copytree(self.artifact(name), out)
        return self.file(name, out)

    def judged(self, place: Path, reference: Path, use_case: str) -> ValidationRecord:
        """The verdict; the logits of each reference are kept."""
        return api.validate(
            place, reference, windows=WINDOWS, length=LENGTH, use_case=use_case, reference_cache=self.folder / "kept"
        )


def edit_config(folder: Path, **changes: Any) -> None:
    """Lay keys over config.json."""
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def add_biases(folder: Path) -> None:
    """The model as a Qwen2, which has biases on q, k and v."""
    weights = load_file(folder / WEIGHTS)
    generator = torch.Generator().manual_seed(3)
    for layer in range(LAYERS):
        for part in "qkv":
            name = f"model.layers.{layer}.self_attn.{part}_proj."
            rows = len(weights[f"{name}weight"])
            weights[f"{name}bias"] = (0.2 * torch.randn(rows, generator=generator)).to(torch.bfloat16)
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    edit_config(folder, model_type="qwen2", architectures=["Qwen2ForCausalLM"])


def tie(folder: Path) -> None:
    """The embedding as the head."""
    weights = load_file(folder / WEIGHTS)
    del weights["lm_head.weight"]
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    edit_config(folder, tie_word_embeddings=True)
