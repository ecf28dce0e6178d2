"""The walker gives transformers' own logits, and a staged run gives a plain run's outputs."""

from pathlib import Path

import pytest
import torch

from bitwright.core.errors import InputError, UsageError
from bitwright.facts.families import FAMILIES, LINEARS
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.modeling.stages import run_staged
from bitwright.modeling.walk import Walker
from checkpoints import write_checkpoint


@pytest.mark.parametrize("family", list(FAMILIES))
@pytest.mark.parametrize("tied", [False, True])
def test_logits_equal_transformers(tmp_path: Path, family: str, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    folder = write_checkpoint(tmp_path / "model", family, tied=tied)
    tokens = torch.randint(0, 320, (3, 40), generator=torch.Generator().manual_seed(0))
    walker = Walker(CheckpointSource(folder))
    hidden = walker.embed(tokens)
    for index in range(walker.layers):
        hidden = walker.run_block(index, hidden, batch=2)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        expected = model(tokens).logits
    torch.testing.assert_close(walker.logits(hidden), expected, rtol=1e-4, atol=1e-5)


def test_a_staged_run_sees_every_input_once_and_in_order(tmp_path: Path) -> None:
    walker = Walker(CheckpointSource(write_checkpoint(tmp_path / "model")))
    hidden = walker.embed(torch.arange(60).view(3, 20))
    block = walker.load_block(0)
    leaders = [modules[0] for modules in LINEARS.values()]
    seen: list[str] = []
    outputs = run_staged(
        walker.forward,
        [block],
        torch.split(hidden, 1),
        leaders,
        lambda leader, inputs: seen.append(f"{leader} {tuple(inputs.shape)}"),
        lambda leader: seen.append(f"{leader} complete"),
    )
    assert torch.equal(torch.cat(outputs), walker.run_block(0, hidden, batch=1))
    expected = []
    for leader in leaders:
        width = 128 if leader == "mlp.down_proj" else 64
        expected += [f"{leader} (1, 20, {width})"] * 3 + [f"{leader} complete"]
    assert seen == expected


def test_weights_replaced_at_a_stage_are_used_behind_it(tmp_path: Path) -> None:
    walker = Walker(CheckpointSource(write_checkpoint(tmp_path / "model")))
    hidden = walker.embed(torch.arange(20)[None])
    block = walker.load_block(0)

    def silence(leader: str) -> None:
        for modules in LINEARS.values():
            if modules[0] == leader:
                for module in modules:
                    block.get_submodule(module).weight.data.zero_()

    leaders = [modules[0] for modules in LINEARS.values()]
    (output,) = run_staged(walker.forward, [block], [hidden], leaders, lambda *_: None, silence)
    assert torch.equal(output, hidden)


def test_windows_beyond_the_model_are_refused(tmp_path: Path) -> None:
    walker = Walker(CheckpointSource(write_checkpoint(tmp_path / "model", context=32)))
    with pytest.raises(UsageError, match="40 tokens are longer than the 32 positions"):
        walker.embed(torch.zeros((1, 40), dtype=torch.int64))
    with pytest.raises(InputError, match="token id 320 is outside"):
        walker.embed(torch.full((1, 8), 320))
