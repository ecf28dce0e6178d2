from __future__ import annotations

import json
import shutil
from pathlib import Path

from command_line import Run


def test_a_sound_artifact_is_healthy(run: Run, artifact: Path, tiny: Path, judged: Path, tmp_path: Path) -> None:
    out = tmp_path / "doctor.json"
    done = run("doctor", artifact, "--reference", tiny, "--text", judged, "--length", 32, "--explain", "--out", out)
    assert done.code == 0
    assert done.out.startswith("healthy")
    record = json.loads(out.read_text())
    assert record["schema"] == "bitwright.doctor/1"
    assert not record["findings"]
    assert len(record["layers"]) == 3
    assert record["advice"]
    assert all(row["kl"] >= 0 and row["bytes"] > 0 for row in record["advice"])


def test_what_breaks_it_is_named_with_its_fix(
    run: Run, artifact: Path, tiny: Path, judged: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny, other)
    settings = json.loads((other / "config.json").read_text())
    settings["rms_norm_eps"] = 1e-3
    (other / "config.json").write_text(json.dumps(settings))
    (other / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    done = run("doctor", artifact, "--reference", other, "--text", judged, "--length", 32)
    assert done.code == 1
    assert done.out.startswith("broken: 2 findings")
    assert "rms_norm_eps" in done.out
    assert "tokenizer.chat_template" in done.out
    assert "fix:" in done.out
    assert "may show as: answers do not end" in done.out


def test_an_artifact_of_another_model_is_told_by_its_dimensions(
    run: Run, artifact: Path, tiny: Path, judged: Path, tmp_path: Path
) -> None:
    from checkpoints import write_checkpoint

    other = write_checkpoint(tmp_path / "other", hidden=64, intermediate=96, layers=2, context=256)
    done = run("doctor", artifact, "--reference", other, "--text", judged, "--length", 32)
    assert done.code == 1
    assert "intermediate is 128, the reference has 96" in done.out
