"""What preparation leaves on disk is checked before use: damage is refused, what belongs elsewhere is dropped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bitwright.core.errors import MismatchError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.facts.model import model_facts
from bitwright.pipeline import preparation, sealed, sensitivity
from bitwright.pipeline.preparation import PREPARED, Preparation
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint
from command_line import text_file

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
FORWARD, BACKWARD, PREPARED_WHOLE = 3, 6, 100  # writes before the kill


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    folder = write_checkpoint(tmp_path / "model", layers=3)
    text = text_file(tmp_path / "text.txt")
    calibration = CalibrationPlan(source=(str(text),), samples=2, length=32)
    return make_plan(model_facts(folder), DEVICE, use_case="chat", type="Q4_0", effort="best", calibration=calibration)


def killed(plan: Plan, out: Path, writes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave `.prepared` as a kill at the n-th array leaves it, or complete, with no block quantized."""
    from bitwright.pipeline import run

    writing, left = sensitivity.writing_states, [writes]

    @contextlib.contextmanager
    def dying(path: Path, windows: int, *, sealed: bool) -> Iterator[object]:
        with writing(path, windows, sealed=sealed) as writer:
            yield writer
            left[0] -= 1
            if left[0] == 0:
                raise KeyboardInterrupt

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "writing_states", dying)
        patch.setattr(run, "quantize_block", stop)
        with pytest.raises(KeyboardInterrupt):
            quantize(plan, Path(plan.model.path), out)


DAMAGES = {
    "hidden states": (FORWARD, "gradients/hidden-0001.npy"),
    "gradients": (BACKWARD, "gradients/gradient-0003.npy"),
    "weights of a block": (PREPARED_WHOLE, "gradients/block-0001.npz"),
    "weights of the head": (PREPARED_WHOLE, "gradients/head.npz"),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("how", ["one bit", "cut short"])
def test_damaged_preparation_is_refused(
    kind: str, how: str, plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes, name = DAMAGES[kind]
    out = tmp_path / "out"
    killed(plan, out, writes, monkeypatch)
    path = out / PREPARED / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if how == "one bit" else data[: len(data) // 2])
    with pytest.raises(MismatchError, match="is not what the unfinished run wrote") as refused:
        quantize(plan, Path(plan.model.path), out)
    assert refused.value.hint == f"remove `{out / PREPARED}` to start anew"


def test_lost_preparation_is_refused(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    killed(plan, out, PREPARED_WHOLE, monkeypatch)
    (out / PREPARED / "gradients" / "block-0001.npz").unlink()
    with pytest.raises(MismatchError, match="is missing from an unfinished run"):
        quantize(plan, Path(plan.model.path), out)


def test_what_another_run_prepared_is_dropped(plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    killed(plan, out, FORWARD, monkeypatch)
    kept = out / PREPARED / preparation.TOKENS
    Preparation(out, plan)
    assert kept.exists()
    other_text = msgspec.structs.replace(plan.calibration, seed=1)
    other_model = msgspec.structs.replace(plan.model, fingerprint="another")
    for change in ({"calibration": other_text}, {"model": other_model}):
        killed_again = tmp_path / f"out-{next(iter(change))}"
        killed(plan, killed_again, FORWARD, monkeypatch)
        Preparation(killed_again, msgspec.structs.replace(plan, **change))
        assert not (killed_again / PREPARED).exists()
    monkeypatch.setattr(preparation, "version", lambda: "0.0.0")
    Preparation(out, plan)
    assert not kept.exists()


def test_sealed_arrays_come_back(tmp_path: Path) -> None:
    values = np.arange(12, dtype=np.int16).reshape(3, 4)
    sealed.save_array(tmp_path / "one.npy", values)
    np.testing.assert_array_equal(sealed.load_array(tmp_path / "one.npy", tmp_path), values)
    several = {"a": np.ones(3, np.float32), "b.c": np.zeros((2, 2), np.float32)}
    sealed.save_arrays(tmp_path / "two.npz", several)
    read = sealed.load_arrays(tmp_path / "two.npz", tmp_path)
    assert read.keys() == several.keys()
    np.testing.assert_array_equal(read["a"], several["a"])


@pytest.mark.parametrize("data", [b"", b"short", bytes(64)])
def test_what_was_never_sealed_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(MismatchError, match="is not what"):
        sealed.load_array(tmp_path / "x.npy", tmp_path)
