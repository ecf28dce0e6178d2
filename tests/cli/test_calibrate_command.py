"""`bitwright calibrate`: what it stores, who finds it again, and what it says when the machine cannot."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest

from bitwright.api import machine
from bitwright.core.machine import MachineCalibration, ProductRate
from bitwright.engines import machine_runs, micro_benchmarks
from bitwright.engines.machine_runs import LARGE, NARROW
from bitwright.facts.hardware import find_device
from bitwright.formats.ggml.random_file import RandomShape
from command_line import Run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and models that are run in no time."""
    monkeypatch.setenv("BITWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny = RandomShape(hidden=256, intermediate=256, blocks=1, heads=4, kv_heads=2, vocab=300)
    headed = dataclasses.replace(tiny, vocab=600)
    for name, value in {
        "LARGE": tiny,
        "NARROW": tiny,
        "HEADED": headed,
        "PAIRED": dataclasses.replace(tiny, kv_heads=4),
        "PROMPT": 8,
        "LONG_PROMPT": 24,
        "DECODED": 4,
    }.items():
        monkeypatch.setattr(machine_runs, name, value)
    monkeypatch.setattr(machine_runs, "QUICK_TYPES", ("F16", "Q8_0"))
    monkeypatch.setattr(micro_benchmarks, "COPY_BYTES", 1 << 20)
    row = ProductRate(type="f32", tokens=1, inputs=1, outputs=1, tera_per_second=0.1)
    monkeypatch.setattr(micro_benchmarks, "product_rates", lambda: (row, row))
    return tmp_path / "cache"


@pytest.mark.slow
def test_measure_store_and_find(small: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    device = find_device("cpu")
    assert machine.stored(device) is None
    answer = run("calibrate", "--target", "cpu", "--quick", "--json")
    assert (answer.code, answer.err) == (0, "")
    document = msgspec.json.decode(answer.out, type=MachineCalibration)
    assert {cost.type for cost in document.types} == {"F16", "Q8_0"}
    assert len(document.runs) == 7
    assert len({run.vocab for run in document.runs}) == 2
    found = machine.stored(device)
    assert found == document
    assert machine.stored(device, "h100-sxm") is None  # not this machine
    assert machine.stored(msgspec.structs.replace(device, cores=999)) is None
    path = machine.stored_path(device)
    assert path.is_relative_to(small)
    path.write_text(path.read_text().replace("bitwright.machine/3", "bitwright.machine/999"))
    assert machine.stored(device) is None
    shown = run("calibrate", "--quick")
    assert shown.code == 0, shown.err
    assert "Q8_0" in shown.out


def test_another_machine_cannot_be_measured_from_here(small: Path, run: Run) -> None:
    answer = run("calibrate", "--target", "h100-sxm")
    assert answer.code == 2
    assert "--target auto or cpu" in answer.err
    assert not small.exists()


def test_without_the_engine(small: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitwright.engines import llamacpp

    monkeypatch.setattr(llamacpp.importlib.util, "find_spec", lambda _: None)
    answer = run("calibrate", "--target", "cpu")
    assert answer.code == 3
    assert "pip install xllamacpp" in answer.err


def test_a_cache_that_cannot_be_written(small: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    small.write_text("in the way")
    found = MachineCalibration(
        device="x", kind="cpu", threads=1, copy_gb_s=1.0, products=(), seconds=1.0, provenance=machine_provenance()
    )
    monkeypatch.setattr(machine, "measure_cpu", lambda *_, **__: found)
    answer = run("calibrate", "--target", "cpu")
    assert answer.code in (2, 3)
    assert str(small) in answer.err


def machine_provenance() -> object:
    from bitwright.core.provenance import provenance

    return provenance()


def test_models_tell_types_and_blocks_apart() -> None:
    """The large one is mostly matrices, the narrow one mostly the rest."""
    assert LARGE.block_weights / LARGE.blocks > 10 * NARROW.block_weights / NARROW.blocks
    assert NARROW.blocks >= 2 * LARGE.blocks
