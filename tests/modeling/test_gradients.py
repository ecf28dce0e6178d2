"""The block-by-block backward pass against autograd through the whole model at once."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bitwright.core.protocols import SILENT
from bitwright.facts.families import FAMILIES, LINEARS
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.modeling.gradients import block_gradients, head_gradients
from bitwright.modeling.walk import Walker
from bitwright.pipeline import sensitivity
from bitwright.pipeline.sensitivity import take_sensitivities
from checkpoints import MIXTURES, write_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", dtype="F32", layers=3)


def whole_model_gradients(folder: Path, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients [N, O] at the output of every linear, labels drawn as `head_gradients` draws them."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_full_backward_hook(
                lambda _module, _inputs, outputs, name=name: found.__setitem__(name, outputs[0].flatten(0, -2))
            )
    logits = model(tokens).logits.flatten(0, -2)
    labels = torch.multinomial(torch.softmax(logits.detach(), -1), 1, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(logits, labels[:, 0], reduction="sum").backward()
    return found


def whole_model_inputs(folder: Path, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    """Inputs [N, I] of every linear."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(
                lambda _module, args, name=name: found.__setitem__(name, args[0].detach().flatten(0, -2))
            )
    model(tokens)
    return found


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3_text", "phi3"])
def test_both_ways_agree(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family, dtype="F32", layers=3)
    tokens = torch.randint(0, 320, (4, 16), generator=torch.Generator().manual_seed(1))
    expected = whole_model_gradients(folder, tokens)
    walker = Walker(CheckpointSource(folder))
    hidden = [walker.embed(tokens)]
    for index in range(walker.layers):
        hidden.append(walker.run_block(index, hidden[-1]))
    entered = whole_model_inputs(folder, tokens)
    gradients: list[torch.Tensor] = []
    head = head_gradients(walker, hidden[-1].split(4), torch.Generator().manual_seed(0), gradients.append)
    np.testing.assert_allclose(head.tokens, expected["lm_head"].square().mean(1), rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(head.rows, expected["lm_head"].square().mean(0), rtol=1e-4, atol=1e-7)
    above = torch.cat(gradients).split(2)
    for index in reversed(range(walker.layers)):
        back: list[torch.Tensor] = []
        weights = block_gradients(walker, index, hidden[index].split(2), above, back.append)
        above = tuple(back)
        for group, modules in FAMILIES[family].linears.items():
            squares = [expected[f"model.layers.{index}.{module}"].square() for module in modules]
            tokens_N = torch.stack([square.mean(1) for square in squares]).mean(0)
            np.testing.assert_allclose(weights.tokens[group], tokens_N, rtol=2e-3, atol=1e-9)
            inputs = entered[f"model.layers.{index}.{modules[0]}"].square() * tokens_N[:, None]
            np.testing.assert_allclose(weights.squares[group], inputs.mean(0), rtol=2e-3, atol=1e-9)
            for module, square in zip(modules, squares, strict=True):
                np.testing.assert_allclose(weights.rows[module], square.mean(0), rtol=2e-3, atol=1e-9)


def test_an_interrupted_pass_ends_with_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = torch.randint(0, 320, (4, 16), generator=torch.Generator().manual_seed(1))
    walker = Walker(CheckpointSource(folder))

    def weigh(work: Path) -> sensitivity.Sensitivities:
        work.mkdir(exist_ok=True)
        return take_sensitivities(work, walker, tokens, batch=2, progress=SILENT)

    whole = weigh(tmp_path / "whole")
    writing = sensitivity.writing_states
    left = [0]

    @contextlib.contextmanager
    def dying(path: Path, windows: int, *, sealed: bool) -> Iterator[object]:
        with writing(path, windows, sealed=sealed) as writer:
            yield writer
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

    for fatal in range(1, 20):  # die at the n-th write, then go on
        left[0] = fatal
        work = tmp_path / f"killed-{fatal}"
        with monkeypatch.context() as patch:
            patch.setattr(sensitivity, "writing_states", dying)
            try:
                weigh(work)
            except KeyboardInterrupt:
                pass
            else:
                assert fatal > 5
                break
        again = weigh(work)
        np.testing.assert_array_equal(again.head().rows, whole.head().rows)
        for index in range(walker.layers):
            for group in LINEARS:
                np.testing.assert_array_equal(again.block(index).tokens[group], whole.block(index).tokens[group])
        assert not list((work / sensitivity.FOLDER).glob("*.npy"))


@pytest.mark.parametrize("family", MIXTURES)
def test_gradients_pass_through_routed_experts(tmp_path: Path, family: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family, dtype="F32", layers=1)
    tokens = torch.randint(0, 320, (4, 16), generator=torch.Generator().manual_seed(1))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    walker = Walker(CheckpointSource(folder))
    hidden = walker.embed(tokens)
    above = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    leaf = hidden.clone().requires_grad_()
    positions = torch.arange(16)[None]
    out = model.model.layers[0](leaf, position_embeddings=model.model.rotary_emb(leaf, positions))
    (out[0] if isinstance(out, tuple) else out).backward(above)
    back: list[torch.Tensor] = []
    weights = block_gradients(walker, 0, hidden.split(2), above.split(2), back.append)
    torch.testing.assert_close(torch.cat(back), leaf.grad, rtol=1e-3, atol=1e-5)
    assert len(weights.rows) == 4 + 3 * (4 + (family == "qwen2_moe"))
    assert not any(name.startswith("experts") for name in weights.tokens)
    assert all(np.isfinite(values).all() for values in (*weights.squares.values(), *weights.rows.values()))
