"""The vision tower and the projector are looked at apart from the decoder, which text alone judges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright import api
from bitwright.cli.doctor import print_diagnosis
from bitwright.core.plan import CalibrationPlan
from doctor import edits
from vision_models import write_vision_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # libraries' remarks


def test_damage_beside_the_decoder_fails_and_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out, text = write_vision_model(tmp_path / "llava", "llava"), tmp_path / "w8", tmp_path / "text.txt"
    text.write_text("the rain in the north is heard on the tin roof and in the trees. " * 60)
    plan = api.plan(
        model, format="compressed-tensors", bits=8, group_size=32, method="rtn", calibration=CalibrationPlan(source=())
    )
    api.quantize(plan, out)
    options = {"texts": (text,), "windows": 4, "length": 32}
    assert not [gate for gate in api.validate(out, model, **options).gates if gate.measure == "vision"]
    sound = api.doctor(out, model, **options)
    assert sound.healthy
    assert [(row.part, row.broken) for row in sound.parts] == [("decoder", 0), ("vision tower", 0), ("projector", 0)]
    assert sum(row.tensors for row in sound.parts) == sound.tensors

    names: list[str] = []

    def silence(held: dict[str, torch.Tensor]) -> None:
        names.append(next(name for name in held if "vision" in name and name.endswith("fc1.weight")))
        held[names[0]] = torch.where(torch.arange(len(held[names[0]]))[:, None] < 8, 0.0, held[names[0]].float()).to(
            held[names[0]].dtype
        )

    edits.tensors(silence)(out)
    record = api.validate(out, model, **options)
    assert next(gate.measure for gate in record.gates if gate.verdict == "FAIL") == "vision"
    found = api.doctor(out, model, **options)
    assert [(finding.part, finding.rule, finding.where) for finding in found.findings] == [
        ("vision tower", "zero-rows", names[0])
    ]
    assert any("vision tower or the projector" in symptom.because for symptom in found.symptoms)
    tower = next(row for row in found.parts if row.part == "vision tower")
    assert (tower.broken, tower.worst) == (1, names[0])
    print_diagnosis(found, explain=False)
    assert f"vision tower  {tower.tensors:>7}" in capsys.readouterr().out


def test_a_file_of_the_decoder_alone_says_so(tmp_path: Path) -> None:
    model, out, text = write_vision_model(tmp_path / "llava", "llava"), tmp_path / "q8", tmp_path / "text.txt"
    text.write_text("the rain in the north is heard on the tin roof and in the trees. " * 60)
    api.quantize(api.plan(model, format="gguf", type="Q8_0", calibration=CalibrationPlan(source=())), out)
    found = api.doctor(out, model, texts=(text,), windows=2, length=32, advise=True)
    assert found.healthy
    assert [row.part for row in found.parts] == ["decoder"]
    assert any("holds the decoder alone" in note for note in found.notes)
    assert any("image" in row.symptom for row in found.elsewhere)
