"""Blocks on other devices than the CPU: what goes where, and that the artifact stays what it was.

The cards are pretended (fake_cards.py); a test at the end wants a real one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.calibration.statistics import InputStatistics, MeanSquare
from bitwright.core.errors import MismatchError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.core.records import QuantRecord
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.sniff import open_source
from bitwright.modeling.copies import copies_of, renew
from bitwright.modeling.stages import run_repeated, run_staged
from bitwright.modeling.walk import Walker
from bitwright.pipeline import blocks
from bitwright.pipeline.job import Job
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from bitwright.tensors.devices import CPU, Devices, fetched
from checkpoints import write_checkpoint
from fake_cards import Cards, card

TEXT = "The quick brown fox jumps over the lazy dog. " * 120
DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)


def small_model(tmp_path: Path, family: str = "llama", *, hidden: int = 32, layers: int = 1) -> Path:
    return write_checkpoint(
        tmp_path / family, family, hidden=hidden, heads=2, kv_heads=1, intermediate=2 * hidden, layers=layers
    )


def plan_for(folder: Path, **choices: object) -> Plan:
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    calibration = CalibrationPlan(source=(str(text),), samples=5, length=32)
    return make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=calibration, **choices)


def run_on(plan: Plan, folder: Path, out: Path, devices: Devices) -> tuple[QuantRecord, dict[str, int]]:
    with Cards() as cards:
        record = quantize(plan, folder, out, devices=devices)
    return record, dict(cards.seen)


def values_of(folder: Path, record: QuantRecord) -> dict[str, np.ndarray]:
    place = folder / record.files[0].name if record.files[0].name.endswith(".gguf") else folder
    source = open_source(place)
    return {name: source.load(name).float().numpy() for name in source.names()}


def assert_alike(here: Path, one: QuantRecord, there: Path, other: QuantRecord, *, apart: float = 0.05) -> None:
    """Sums in another order move a code where two levels are about equally near, and nothing else."""
    expected, found = values_of(here, one), values_of(there, other)
    for name, values in expected.items():
        assert np.linalg.norm(found[name] - values) < apart * np.linalg.norm(values), name  # a code is a tenth
    errors = [sum(tensor.output_error or 0 for tensor in record.tensors) for record in (one, other)]
    assert errors[1] == pytest.approx(errors[0], rel=0.02)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window per batch, so that there is something to deal."""
    monkeypatch.setattr(blocks, "BATCH_TOKENS", 32)


def test_two_cards_make_the_artifact_of_the_cpu_and_the_same_bytes_again(tmp_path: Path, small_batches: None) -> None:
    folder = small_model(tmp_path)
    plan = plan_for(folder, format="gguf", type="Q4_0", method="gptq")
    alone = quantize(plan, folder, tmp_path / "cpu")
    dealt, seen = run_on(plan, folder, tmp_path / "dealt", (card(0), card(1)))
    again, _ = run_on(plan, folder, tmp_path / "again", (card(0), card(1)))
    assert_alike(tmp_path / "cpu", alone, tmp_path / "dealt", dealt)
    assert dealt.files == again.files
    assert min(seen["card:0"], seen["card:1"]) > 100
    assert (alone.provenance.device, dealt.provenance.device) == ("cpu", "card, card")


def test_methods_without_feedback_run_their_pass_on_cards(tmp_path: Path, small_batches: None) -> None:
    folder = small_model(tmp_path, hidden=64)
    plan = plan_for(folder, format="compressed-tensors", method="awq", bits=4, group_size=32)
    alone = quantize(plan, folder, tmp_path / "cpu")
    dealt, seen = run_on(plan, folder, tmp_path / "dealt", (card(0), card(1)))
    assert_alike(tmp_path / "cpu", alone, tmp_path / "dealt", dealt)
    assert min(seen.values()) > 100


@pytest.mark.slow
@pytest.mark.parametrize("effort", ["fast", "best"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2_moe"])
def test_masks_and_experts_go_to_cards_too(tmp_path: Path, small_batches: None, family: str, effort: str) -> None:
    folder = small_model(tmp_path, family)
    plan = plan_for(folder, format="gguf", type="Q4_0", effort=effort)
    alone = quantize(plan, folder, tmp_path / "cpu")
    dealt, seen = run_on(plan, folder, tmp_path / "dealt", (card(0), card(1)))
    # bfloat16 rounds what enters every linear, so that more codes move
    assert_alike(tmp_path / "cpu", alone, tmp_path / "dealt", dealt, apart=0.2 if effort == "fast" else 0.05)
    assert min(seen["card:0"], seen["card:1"]) > 100


def test_a_walk_on_a_card_gives_the_logits_of_the_cpu(tmp_path: Path) -> None:
    source = CheckpointSource(small_model(tmp_path, "gemma3_text", layers=2))
    tokens = torch.arange(96).reshape(3, 32)
    logits = []
    for devices in ((CPU,), (card(0), card(1))):
        with Cards():
            walker = Walker(source, devices=devices)
            hidden = walker.embed(tokens)
            for index in range(walker.layers):
                hidden = walker.run_block(index, hidden, batch=1)
            logits.append(walker.logits(hidden))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-4, atol=1e-5)


def test_batches_go_round_the_copies_and_new_weights_go_to_all_of_them() -> None:
    block = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
    batches = [torch.full((1, 4), float(number)) for number in range(5)]
    for run in (run_staged, run_repeated):
        with Cards():
            copies = copies_of(block, (card(0), card(1)))
            where: list[tuple[str, str]] = []

            def complete(leader: str, copies: list[torch.nn.Module] = copies) -> None:
                block[int(leader)].weight.data.fill_(int(leader) + 1)
                renew(copies, block, [leader])

            outputs = run(
                lambda copy, part: copy(part.to(copy[0].weight.device)),
                copies,
                batches,
                ["0", "1"],
                lambda leader, inputs, where=where: where.append((leader, str(inputs.device))),
                complete,
            )
            results = [output.tolist() for output in fetched(outputs, 2)]
        assert where == [(leader, f"card:{number % 2}") for leader in "01" for number in range(5)]
        assert results == [[[32.0 * number] * 4] for number in range(5)]


def test_outputs_are_waited_for_when_every_device_has_its_own() -> None:
    told: list[str] = []

    def work() -> object:
        for number in range(5):
            told.append(f"begun {number}")
            yield torch.tensor(number)

    for output in fetched(work(), 2):
        told.append(f"done {int(output)}")
    assert told[:4] == ["begun 0", "begun 1", "done 0", "begun 2"]
    assert told[-2:] == ["done 3", "done 4"]
    assert [int(output) for output in fetched(iter([torch.tensor(7)]), 3)] == [7]


def test_sums_of_devices_add_up() -> None:
    parts = torch.randn(4, 50, 12, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(4, 50, generator=torch.Generator().manual_seed(1))
    grams, means = [], []
    for devices in ((CPU, CPU), (card(0), card(1))):
        with Cards():
            gram, square = InputStatistics(12), MeanSquare(sampled=True)
            for number, (part, some) in enumerate(zip(parts, weights, strict=True)):
                gram.add(part.to(devices[number % 2]), some)
                square.add(part.to(devices[number % 2]), some)
            grams.append((gram.take_gram("x"), gram.peak))
            assert square.sample is not None
            means.append((square.mean("x"), square.largest(), square.sample.tokens()))
    np.testing.assert_allclose(grams[1][0], grams[0][0], rtol=1e-5)
    np.testing.assert_allclose(means[1][0], means[0][0], rtol=1e-6)
    assert grams[1][1] == grams[0][1]
    torch.testing.assert_close(means[1][1:], means[0][1:], rtol=0, atol=0)


def test_a_run_goes_on_where_it_began(tmp_path: Path) -> None:
    plan = plan_for(small_model(tmp_path), format="gguf", type="Q4_0")
    job = Job(tmp_path / "out", plan, "NVIDIA H200, NVIDIA H200")
    job.begin(None, "layout", 1)
    job.close()
    with pytest.raises(MismatchError, match="unfinished run on NVIDIA H200, NVIDIA H200, this one is on cpu"):
        Job(tmp_path / "out", plan)
    Job(tmp_path / "out", plan, "NVIDIA H200, NVIDIA H200").close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA card")
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2_moe"])
@pytest.mark.parametrize("effort", ["fast", "balanced", "best"])
def test_a_real_card_makes_the_artifact_of_the_cpu(tmp_path: Path, family: str, effort: str) -> None:
    folder = small_model(tmp_path, family, hidden=256, layers=2)
    plan = plan_for(folder, format="gguf", type="Q4_K_M", effort=effort)
    alone = quantize(plan, folder, tmp_path / "cpu")
    devices = tuple(torch.device("cuda", index) for index in range(min(2, torch.cuda.device_count())))
    first = quantize(plan, folder, tmp_path / "first", devices=devices)
    again = quantize(plan, folder, tmp_path / "again", devices=devices)
    assert_alike(tmp_path / "cpu", alone, tmp_path / "first", first)
    assert first.files == again.files
