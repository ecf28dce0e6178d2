"""Stock llama.cpp computes from our GGUF files what we compute from them, for every family."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.core.plan import CalibrationPlan, DeviceFacts
from bitwright.engines.chat import connect
from bitwright.engines.llamacpp import LlamaCppServer
from bitwright.facts.families import FAMILIES
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.ggml.reader import GgufSource
from bitwright.modeling.walk import Walker
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
PROMPT = [(7 * place) % 300 + 3 for place in range(40)]  # longer than Gemma's window of 12


def logprobs(walker: Walker) -> np.ndarray:
    """Of the token after the prompt, [V]."""
    hidden = walker.embed(torch.tensor([PROMPT]))
    for index in range(walker.layers):
        hidden = walker.run_block(index, hidden)
    return torch.log_softmax(walker.logits(hidden[:, -1:])[0, 0], dim=-1).numpy()


def logprobs_of_llama_cpp(path: Path, vocab: int) -> np.ndarray:
    body = {"prompt": PROMPT, "n_predict": 1, "n_probs": vocab, "temperature": 0.0, "cache_prompt": False}
    with LlamaCppServer(path, port=0, context=128, threads=1) as server, connect(server.url) as client:
        answer = client.post("/completion", json=body).json()
    found = np.full(vocab, np.nan)
    for entry in answer["completion_probabilities"][0]["top_logprobs"]:
        found[entry["id"]] = entry["logprob"]
    return found


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("type", ["F32", "Q8_0"])
def test_logits_agree(tmp_path: Path, family: str, type: str) -> None:
    folder = write_checkpoint(
        tmp_path / "model", family, hidden=128, heads=4, head_dim=32, intermediate=128, tied=FAMILIES[family].tied
    )
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 120)
    calibration = CalibrationPlan(source=(str(text),), samples=4, length=32)
    plan = make_plan(model_facts(folder), DEVICE, use_case="chat", format="gguf", type=type, calibration=calibration)
    record = quantize(plan, folder, tmp_path / "out")
    path = tmp_path / "out" / record.files[0].name
    ours, theirs = logprobs(Walker(GgufSource(path))), logprobs_of_llama_cpp(path, 320)
    # keys and values are cached in half precision, and inputs of Q8_0 products are rounded to 8 bits
    assert np.nanmax(np.abs(ours - theirs)) < (0.02 if type == "F32" else 0.3)
    assert np.isfinite(theirs).sum() > 300
    if type == "F32":
        np.testing.assert_allclose(ours, logprobs(Walker(CheckpointSource(folder))), atol=1e-4)
