"""From checkpoint to artifact: what a foreign reader decodes, kills survived, mixing refused."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from bitwright.core.errors import EnvironmentFault, InputError, MismatchError, UsageError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.formats.ggml.reader import GgufSource
from bitwright.modeling.walk import Walker
from bitwright.pipeline import output
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
TEXT = "The quick brown fox jumps over the lazy dog. " * 120


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model", hidden=256, heads=4, kv_heads=2, intermediate=256, layers=3, shards=2)


def plan_for(folder: Path, *, seed: int = 0, **choices: object) -> Plan:
    text = folder.parent / "text.txt"
    text.write_text(TEXT)
    calibration = CalibrationPlan(source=(str(text),), samples=6, length=32, seed=seed)
    return make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=calibration, **choices)


@pytest.mark.parametrize("type", ["Q4_K_M", "Q5_K_S", "Q6_K", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("tied", [False, True])
def test_gguf_tensors_are_what_was_solved(tmp_path: Path, type: str, tied: bool) -> None:
    folder = write_checkpoint(tmp_path / "model", hidden=256, intermediate=512, tied=tied)
    plan = plan_for(folder, format="gguf", type=type, effort="fast")  # columns as they are
    record = quantize(plan, folder, tmp_path / "out")
    path = tmp_path / "out" / record.files[0].name
    reader = gguf.GGUFReader(path)
    assert {tensor.name: tensor.tensor_type.name for tensor in reader.tensors} == {
        entry.stored_name: entry.scheme.label for entry in plan.tensors
    }
    source, reference = GgufSource(path), record_weights(folder)
    for tensor in record.tensors:
        decoded = source.load(tensor.name).float().numpy()
        error = np.square(decoded - reference[tensor.name]).sum() / np.square(reference[tensor.name]).sum()
        assert error == pytest.approx(tensor.weight_error, rel=1e-4, abs=1e-9)
    assert {tensor.method for tensor in record.tensors} == ({"gptq", "cast"} if tied else {"gptq", "cast", "rtn"})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("form", ["gguf", "compressed-tensors"])
@pytest.mark.parametrize("effort", ["balanced", "best"])
def test_scaled_columns_leave_the_model_what_it_was(
    tmp_path: Path, tied: bool, family: str, form: str, effort: str
) -> None:
    folder = write_checkpoint(tmp_path / "model", family=family, hidden=256, heads=4, intermediate=256, tied=tied)
    kind = {"type": "Q8_0"} if form == "gguf" else {"bits": 8, "group_size": 64}
    plan = plan_for(folder, format=form, effort=effort, **kind)
    record = quantize(plan, folder, tmp_path / "out")
    artifact = tmp_path / "out" / record.files[0].name if form == "gguf" else tmp_path / "out"
    source = GgufSource(artifact) if form == "gguf" else CompressedTensorsSource(artifact)
    assert any("folded into" in note for tensor in record.tensors for note in tensor.notes)
    here, there = Walker(CheckpointSource(folder)), Walker(source)
    tokens = torch.arange(64).reshape(2, 32)
    expected, found = here.embed(tokens), there.embed(tokens)
    for index in range(here.layers):
        expected, found = here.run_block(index, expected), there.run_block(index, found)
    expected, found = here.logits(expected), there.logits(found)
    # 8-bit rounding alone moves this random model by 3 %; a scale that is not undone moves it by more than its size
    assert float((found - expected).norm() / expected.norm()) < 0.1


def record_weights(folder: Path) -> dict[str, np.ndarray]:
    from safetensors.torch import load_file

    weights = {}
    for shard in sorted(folder.glob("*.safetensors")):
        weights |= {name: tensor.float().numpy() for name, tensor in load_file(shard).items()}
    return weights


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_compressed_tensors_are_what_was_solved(folder: Path, tmp_path: Path, symmetric: bool, method: str) -> None:
    plan = plan_for(
        folder, format="compressed-tensors", method=method, effort="fast", bits=4, group_size=64, symmetric=symmetric
    )
    record = quantize(plan, folder, tmp_path / "out")
    source, reference = CompressedTensorsSource(tmp_path / "out"), record_weights(folder)
    for tensor in record.tensors:
        decoded = source.load(tensor.name).float().numpy()
        error = np.square(decoded - reference[tensor.name]).sum() / np.square(reference[tensor.name]).sum()
        assert error == pytest.approx(tensor.weight_error, rel=1e-4, abs=1e-9)
    assert {tensor.method for tensor in record.tensors} == {method, "cast"}


def test_gptq_has_less_output_error_than_nearest_codes(folder: Path, tmp_path: Path) -> None:
    errors = {}
    for method in ("rtn", "gptq"):
        plan = plan_for(folder, format="gguf", type="Q4_0", method=method)
        record = quantize(plan, folder, tmp_path / method)
        errors[method] = sum(tensor.output_error or 0 for tensor in record.tensors)
    assert errors["gptq"] < 0.8 * errors["rtn"]


def test_float_artifacts_need_no_text(folder: Path, tmp_path: Path) -> None:
    plan = plan_for(folder, format="gguf", type="F16")
    (folder.parent / "text.txt").unlink()
    record = quantize(plan, folder, tmp_path / "out")
    assert {tensor.method for tensor in record.tensors} == {"cast"}


def test_a_finished_run_is_returned_as_it_stands(folder: Path, tmp_path: Path) -> None:
    plan = plan_for(folder, format="gguf", type="Q4_0")
    first = quantize(plan, folder, tmp_path / "out")
    file = tmp_path / "out" / first.files[0].name
    before = file.stat().st_mtime_ns
    assert quantize(plan, folder, tmp_path / "out") == first
    assert file.stat().st_mtime_ns == before
    assert not (tmp_path / "out" / ".work").exists()


def test_another_plan_in_the_same_place_is_refused(folder: Path, tmp_path: Path) -> None:
    quantize(plan_for(folder, format="gguf", type="Q4_0"), folder, tmp_path / "out")
    with pytest.raises(MismatchError, match="already holds an artifact"):
        quantize(plan_for(folder, format="gguf", type="Q8_0"), folder, tmp_path / "out")


def test_another_checkpoint_than_the_plans_is_refused(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(tmp_path / "other", hidden=256, heads=4, kv_heads=2, intermediate=256, layers=2)
    with pytest.raises(MismatchError, match="not the checkpoint"):
        quantize(plan_for(folder, format="gguf", type="Q4_0"), other, tmp_path / "out")


@pytest.mark.parametrize("failing", ["posix_fallocate", "pwrite"])
def test_a_full_disk_leaves_nothing_under_a_final_name(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.os, failing, refuse)
    with pytest.raises(EnvironmentFault, match="no space left"):
        quantize(plan_for(folder, format="gguf", type="Q4_0"), folder, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".work"]


def start(plan_path: Path, folder: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bitwright", "quantize", str(folder), "--out", str(out), "--plan", str(plan_path)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finished_units(out: Path) -> int:
    job = out / ".work" / "job.json"
    return len(json.loads(job.read_text())["done"]) if job.exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("choices", [{"format": "gguf", "type": "Q4_K_M"}, {"format": "compressed-tensors", "bits": 4}])
def test_five_kills_and_the_same_bytes(tmp_path: Path, choices: dict[str, object]) -> None:
    from bitwright.core.documents import write_document

    folder = write_checkpoint(tmp_path / "model", hidden=256, intermediate=512, layers=24)
    plan = plan_for(folder, **choices)
    write_document(plan, tmp_path / "plan.json")
    expected = quantize(plan, folder, tmp_path / "whole")
    out, generator, kills, seen = tmp_path / "killed", random.Random(0), 0, 0
    while kills < 5:
        run = start(tmp_path / "plan.json", folder, out)
        target = seen + generator.randint(0, 2)
        while finished_units(out) < target and run.poll() is None:
            time.sleep(0.005)
        time.sleep(generator.random() * 0.05)
        assert run.poll() is None, "the run ended before it could be killed"
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        kills, seen = kills + 1, finished_units(out)
        assert not any((out / file.name).exists() for file in expected.files)
    run = start(tmp_path / "plan.json", folder, out)
    _, errors = run.communicate()
    assert run.returncode == 0, errors.decode()
    assert kills == 5
    for file in expected.files:
        assert (out / file.name).read_bytes() == (tmp_path / "whole" / file.name).read_bytes()


def interrupted(folder: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Leave a work directory behind that has finished two units."""
    from bitwright.pipeline import run

    plan = plan_for(folder, format="gguf", type="Q4_0")
    original, calls = run.quantize_block, []

    def stop_at_second(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(run, "quantize_block", stop_at_second)
        with pytest.raises(KeyboardInterrupt):
            quantize(plan, folder, out)
    assert finished_units(out) == 2
    return plan


def test_a_resumed_run_equals_a_whole_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = interrupted(folder, tmp_path / "out", monkeypatch)
    resumed, whole = quantize(plan, folder, tmp_path / "out"), quantize(plan, folder, tmp_path / "whole")
    assert [file.sha256 for file in resumed.files] == [file.sha256 for file in whole.files]
    assert [tensor.name for tensor in resumed.tensors] == [tensor.name for tensor in whole.tensors]


@pytest.mark.parametrize("damaged", ["hidden-0002.npy", "model-Q4_0.gguf.partial", "tokens.npy", "job.json"])
def test_a_damaged_work_directory_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    plan = interrupted(folder, tmp_path / "out", monkeypatch)
    path = tmp_path / "out" / ".work" / damaged
    data = bytearray(path.read_bytes())
    match damaged:
        case "job.json":
            at = data.index(b"identity") + 14
        case "model-Q4_0.gguf.partial":  # in the embedding, which the first unit wrote
            at = int(gguf.GGUFReader(path).tensors[0].data_offset) + 1000
        case _:
            at = len(data) - 5
    data[at] ^= 0x01
    path.write_bytes(bytes(data))
    with pytest.raises((MismatchError, InputError)):
        quantize(plan, folder, tmp_path / "out")


@pytest.mark.parametrize("lost", ["tokens.npy", "hidden-0002.npy", "model-Q4_0.gguf.partial"])
def test_a_work_directory_that_lost_a_file_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    plan = interrupted(folder, tmp_path / "out", monkeypatch)
    (tmp_path / "out" / ".work" / lost).unlink()
    with pytest.raises(MismatchError, match="missing from an unfinished run"):
        quantize(plan, folder, tmp_path / "out")


def test_a_checkpoint_renamed_midway_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = interrupted(folder, tmp_path / "out", monkeypatch)
    renamed = folder.rename(folder.with_name("a model with another and much longer name"))
    with pytest.raises(MismatchError, match="laid out differently"):
        quantize(plan, renamed, tmp_path / "out")


def test_another_tune_of_the_model_is_told_apart(folder: Path, tmp_path: Path) -> None:
    other = write_checkpoint(
        tmp_path / "other", hidden=256, heads=4, kv_heads=2, intermediate=256, layers=3, shards=2, seed=1
    )
    with pytest.raises(MismatchError, match="not the checkpoint"):
        quantize(plan_for(folder, format="gguf", type="Q4_0"), other, tmp_path / "out")


def test_the_models_own_folder_is_not_overwritten(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(UsageError, match="own folder"):
        quantize(plan_for(folder, format="compressed-tensors", bits=4, group_size=64), folder, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_other_text_is_not_mixed_into_an_unfinished_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted(folder, tmp_path / "out", monkeypatch)
    with pytest.raises(MismatchError, match="unfinished run with another"):
        quantize(plan_for(folder, seed=5, format="gguf", type="Q4_0"), folder, tmp_path / "out")


def test_a_second_run_in_the_same_place_is_refused(folder: Path, tmp_path: Path) -> None:
    from bitwright.pipeline.job import Job

    plan = plan_for(folder, format="gguf", type="Q4_0")
    job = Job(tmp_path / "out", plan)
    with pytest.raises(EnvironmentFault, match="another run is at work"):
        quantize(plan, folder, tmp_path / "out")
    job.close()
