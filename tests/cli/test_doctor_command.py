from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from bitwright import api
from bitwright.core.plan import CalibrationPlan
from checkpoints import write_checkpoint
from command_line import Run

SHARD = "model-{:05}-of-00002.safetensors"


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
    for row in record["advice"]:
        assert row["kl"]["low"] <= row["kl"]["value"] <= row["kl"]["high"]
        assert (row["to"], row["option"]) == ("floats", f"--keep {row['tensor']}")
        assert row["bytes"] > 0
    assert record["advised"]["bytes"] == sum(row["bytes"] for row in record["advice"])
    assert f"--keep {record['advice'][0]['tensor']}" in done.out


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
    other = write_checkpoint(tmp_path / "other", hidden=64, intermediate=96, layers=2, context=256)
    done = run("doctor", artifact, "--reference", other, "--text", judged, "--length", 32)
    assert done.code == 1
    assert "intermediate is 128, the reference has 96" in done.out


def cut_short(place: Path) -> None:
    path = next(path for path in place.iterdir() if path.suffix in (".gguf", ".safetensors"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_a_shard(place: Path) -> None:
    """Two shards of which one did not arrive."""
    held = load_file(place / "model.safetensors")
    (place / "model.safetensors").unlink()
    names = sorted(held)
    half = len(names) // 2
    save_file({name: held[name] for name in names[:half]}, place / SHARD.format(1), metadata={"format": "pt"})
    index = {name: SHARD.format(1 if place < half else 2) for place, name in enumerate(names)}
    (place / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@pytest.mark.parametrize(("made", "damage"), [("artifact", cut_short), ("packed", cut_short), ("packed", lose_a_shard)])
def test_lost_bytes_are_a_finding(
    run: Run, made: str, damage: Callable[[Path], None], tiny: Path, judged: Path, tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    place = Path(shutil.copytree(request.getfixturevalue(made), tmp_path / "artifact"))
    damage(place)
    words = ("doctor", place, "--reference", tiny, "--text", judged, "--windows", 2, "--length", 32, "--quiet")
    said, document = run(*words), run(*words, "--json")
    assert (said.code, document.code) == (1, 1), said.err
    assert (said.err, document.err) == ("", "")
    assert said.out.startswith("broken: ")
    assert "fix: compare the file's SHA-256" in said.out
    record = json.loads(document.out)
    assert record["schema"] == "bitwright.doctor/1"
    assert {found["rule"] for found in record["findings"]} == {"unreadable"}
    assert not record["healthy"]


def test_an_artifact_of_another_architecture_is_told_by_it(
    run: Run, artifact: Path, judged: Path, tmp_path: Path
) -> None:
    other = write_checkpoint(tmp_path / "other", "qwen3", hidden=64, intermediate=128, layers=2, context=256)
    done = run("doctor", artifact, "--reference", other, "--text", judged, "--length", 32, "--json")
    findings = json.loads(done.out)["findings"]
    assert done.code == 1
    assert [(found["rule"], found["where"]) for found in findings] == [("dimension", "architecture")]


def test_experts_are_told_apart(run: Run, judged: Path, tmp_path: Path) -> None:
    model = write_checkpoint(tmp_path / "moe", "qwen3_moe", intermediate=64, shards=1)
    out, other = tmp_path / "q8", tmp_path / "other"
    api.quantize(api.plan(model, type="Q8_0", method="rtn", calibration=CalibrationPlan(source=())), out)
    words = ("--text", judged, "--windows", 2, "--length", 32, "--json")
    sound = run("doctor", out, "--reference", model, *words)
    assert (sound.code, json.loads(sound.out)["findings"]) == (0, [])
    shutil.copytree(model, other)
    held = load_file(other / "model.safetensors")
    one, two = (f"model.layers.1.mlp.experts.{expert}.up_proj.weight" for expert in (1, 2))
    held[one], held[two] = held[two], held[one]
    save_file(held, other / "model.safetensors", metadata={"format": "pt"})
    broken = run("doctor", out, "--reference", other, *words)
    findings = json.loads(broken.out)["findings"]
    assert broken.code == 1
    assert [(found["rule"], found["where"]) for found in findings] == [("swapped", one), ("swapped", two)]


def test_a_text_of_one_window_gives_no_advice_and_says_so(
    run: Run, tiny: Path, artifact: Path, judged: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short.txt"
    short.write_text(judged.read_text()[:90])
    done = run("doctor", artifact, "--reference", tiny, "--text", short, "--length", 64, "--explain")
    assert done.code == 0
    assert "more bits were not tried" in done.out
    assert "not finite" not in done.out
