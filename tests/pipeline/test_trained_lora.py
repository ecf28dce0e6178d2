"""A real adapter, trained on the demo model for under a minute: merged and quantized, the model is nearer to the
fine-tuned one than the bare base is."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bitwright import api
from bitwright.core.plan import CalibrationPlan
from bitwright.formats.sniff import gguf_file, open_source
from bitwright.modeling.demo import write_demo

STEPS, WINDOWS, LENGTH = 10, 4, 64


def style(path: Path, seed: int, lines: int = 500) -> Path:
    """Text of a kind that the base has not seen, and that a few steps can teach."""
    draw = random.Random(seed)
    birds, places = ["wren", "rook", "kite", "teal", "dunlin"], ["weir", "fen", "holm", "scar", "tarn"]
    path.write_text(
        "\n".join(
            f"LOG {draw.randint(100, 999)} :: {draw.choice(birds)} x{draw.randint(2, 9)} @ {draw.choice(places)} ;; ok"
            for _ in range(lines)
        )
    )
    return path


def train(folder: Path, tokens: torch.Tensor, adapter: Path) -> Any:
    """A few steps of ordinary LoRA training. Gives the fine-tuned model, merged by PEFT."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = peft.get_peft_model(base, peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for batch in tokens[: STEPS * WINDOWS * LENGTH].view(STEPS, WINDOWS, LENGTH):
        model(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(adapter)
    return model.merge_and_unload()


@torch.no_grad()
def divergence(tuned: Any, other: Any, tokens: torch.Tensor) -> float:
    """Mean KL per token of `other` from the fine-tuned model."""
    wanted, found = (model(tokens).logits.log_softmax(-1) for model in (tuned, other))
    return float((wanted.exp() * (wanted - found)).sum(-1).mean())


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore")
def test_merged_and_quantized_is_nearer_to_the_tuned_model_than_the_base(tmp_path: Path) -> None:
    folder, text = tmp_path / "demo", style(tmp_path / "text.txt", 1)
    write_demo(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    learnt, unseen = (
        torch.tensor(tokenizer.encode(path.read_text())) for path in (text, style(tmp_path / "unseen.txt", 2))
    )
    tuned = train(folder, learnt, tmp_path / "adapter")
    calibration = CalibrationPlan(source=(str(text),), samples=8, length=LENGTH)
    plan = api.plan(folder, type="Q4_K_M", lora=tmp_path / "adapter", calibration=calibration)
    api.quantize(plan, tmp_path / "out")
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    judged = unseen[: 8 * LENGTH].view(8, LENGTH)
    bare = divergence(tuned, base, judged)
    source = open_source(gguf_file(tmp_path / "out"))
    base.load_state_dict({name: source.load(name).float() for name in source.names()}, strict=False)
    base.tie_weights()
    quantized = divergence(tuned, base, judged)
    assert quantized < 0.2 * bare, (quantized, bare)
