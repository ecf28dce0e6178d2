"""The vision tower and the projector are looked at apart from the decoder, which text alone judges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bitwright import api
from bitwright.core.plan import CalibrationPlan
from doctor import edits
from vision_models import write_vision_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # libraries' remarks


def test_damage_beside_the_decoder_fails_and_is_named(tmp_path: Path) -> None:
    model, out, text = write_vision_model(tmp_path / "llava", "llava"), tmp_path / "w8", tmp_path / "text.txt"
    text.write_text("the rain in the north is heard on the tin roof and in the trees. " * 60)
    plan = api.plan(
        model, format="compressed-tensors", bits=8, group_size=32, method="rtn", calibration=CalibrationPlan(source=())
    )
    api.quantize(plan, out)
    options = {"texts": (text,), "windows": 4, "length": 32}
    assert not [gate for gate in api.validate(out, model, **options).gates if gate.measure == "vision"]
    assert api.doctor(out, model, **options).healthy

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
