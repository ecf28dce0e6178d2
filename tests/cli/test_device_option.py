"""`--device`: what is refused, before a model is read, and what is foreseen."""

import json
from pathlib import Path

import pytest
import torch

from bitwright import api
from bitwright.api.devices import check_device, check_used, device_for
from bitwright.api.making import calibration_plan
from bitwright.core.errors import EnvironmentFault, UsageError
from bitwright.tensors.devices import CPU, full_memory_said
from command_line import Run, check

WITHOUT_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")


@pytest.mark.parametrize(
    ("name", "said", "code"),
    [
        ("gpu", "unknown device `gpu`", 2),
        ("cuda:x", "`cuda:x` does not name cards", 2),
        ("cuda:", "`cuda:` does not name cards", 2),
        ("cuda:0,0", "`cuda:0,0` names a card twice", 2),
        ("cpu:1", "`cpu:1`: cpu takes no number", 2),
        pytest.param("cuda", "built without CUDA", 3, marks=WITHOUT_CUDA),
        pytest.param("cuda:0,1", "built without CUDA", 3, marks=WITHOUT_CUDA),
        pytest.param("mps", "no Apple graphics processor", 3, marks=WITHOUT_CUDA),
    ],
)
@pytest.mark.parametrize("command", ["quantize", "ship", "validate"])
def test_a_device_that_is_not_there_is_refused(
    run: Run, tmp_path: Path, command: str, name: str, said: str, code: int
) -> None:
    if command == "validate":
        answer = run("validate", "artifact", "--reference", "model", "--device", name)
    else:
        answer = run(command, "model", "--out", str(tmp_path / "out"), "--type", "Q4_0", "--device", name)
    check(answer, code, said)


def test_a_card_beyond_those_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="no usable NVIDIA card"):
        check_device("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError, match="cuda:2: torch sees 2 cards") as caught:
        check_device("cuda:0,2")
    assert caught.value.hint == "use --device cuda:1 or lower"
    check_device("cuda:1,0")


def test_a_run_without_a_pass_has_no_use_for_a_device(tiny: Path, tmp_path: Path) -> None:
    plan = api.plan(tiny, format="gguf", type="Q8_0", calibration=calibration_plan(("none",), 1, 8, 0))
    with pytest.raises(UsageError, match="runs on a device"):
        check_used(plan, "cuda")
    check_used(plan, "auto")
    check_used(plan, "cpu")
    assert device_for(plan, "auto") == "cpu"


def test_a_full_card_is_said_in_a_line() -> None:
    with pytest.raises(EnvironmentFault, match="out of memory on cpu"), full_memory_said((CPU,)):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_memory_of_a_card_is_foreseen(run: Run, tiny: Path, text: Path, tmp_path: Path) -> None:
    words = ("quantize", str(tiny), "--out", str(tmp_path / "out"), "--type", "Q4_0", "--calibration", str(text))
    plain = json.loads(run(*words, "--dry-run", "--json").out)
    assert plain["device"] is None
    answer = run(*words, "--device", "auto", "--dry-run", "--json")
    assert answer.code == 0
