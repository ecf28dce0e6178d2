"""Vision-language models end to end: written by us, loaded by transformers with compressed-tensors, same logits as our
decode, with an image and without; and decoder and tower each as they should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bitwright import api
from bitwright.core.errors import MismatchError, UnsupportedError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.core.protocols import WeightSource
from bitwright.core.records import QuantRecord
from bitwright.evaluation.beside import beside_notes
from bitwright.facts.checkpoint import read_headers
from bitwright.facts.model import model_facts
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.folders.ranges import locate
from bitwright.formats.folders.safetensors_file import read_tensor
from bitwright.formats.sniff import open_source
from bitwright.modeling.walk import Walker
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from bitwright.planner.vision import part_types
from command_line import run_main, text_file
from vision_models import FAMILIES, image_inputs, load, logits, text_inputs, write_decoded, write_vision_model

CPU = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
EIGHT = [family for family in FAMILIES if family != "gemma3"]  # see docs/methods/vlm.md


def made(folder: Path, out: Path, **asked: Any) -> tuple[Plan, QuantRecord]:
    """A small calibrated artifact."""
    text = text_file(out.parent / "text.txt")
    calibration = CalibrationPlan(source=(str(text),), samples=4, length=32)
    asked = {"format": "compressed-tensors", "bits": 4, "group_size": 32} | asked
    names = (asked.pop("vision", None), asked.pop("projector", None))
    parts = part_types(*names, few_bits=asked.pop("few_bits", False))
    plan = make_plan(model_facts(folder), CPU, use_case="vlm", calibration=calibration, parts=parts, **asked)
    return plan, quantize(plan, folder, out)


def walked(source: WeightSource) -> torch.Tensor:
    """Logits of the text by our own walk, block by block."""
    walker = Walker(source)
    hidden = walker.embed(text_inputs()["input_ids"])
    for index in range(walker.layers):
        hidden = walker.run_block(index, hidden)
    return walker.logits(hidden)


def check(family: str, folder: Path, tmp_path: Path, **asked: Any) -> tuple[Plan, WeightSource]:
    """Write, load with transformers, and hold all three logits against our decode."""
    plan, record = made(folder, tmp_path / "out", **asked)
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    source = open_source(tmp_path / "out")
    theirs, ours = load(tmp_path / "out"), load(write_decoded(source, tmp_path / "out", tmp_path / "decoded"))
    for inputs in (image_inputs(family), text_inputs()):
        torch.testing.assert_close(logits(theirs, inputs), logits(ours, inputs))
    torch.testing.assert_close(walked(source), logits(theirs, text_inputs()), rtol=1e-4, atol=1e-4)
    original, inputs = load(folder), image_inputs(family)
    error = (logits(theirs, inputs) - logits(original, inputs)).square().mean() / logits(
        original, inputs
    ).square().mean()
    assert 0 < float(error) < 0.3
    other = {name: -value if name == "pixel_values" else value for name, value in inputs.items()}
    assert not torch.equal(logits(theirs, inputs), logits(theirs, other))  # the image is seen
    return plan, source


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_w4a16_with_the_tower_as_it_was(family: str, tmp_path: Path) -> None:
    folder = write_vision_model(tmp_path / "model", family)
    plan, source = check(family, folder, tmp_path)
    assert plan.method == "gptq"
    places, kept = locate(tmp_path / "out", read_headers(tmp_path / "out")), CheckpointSource(folder)
    vision = plan.model.vision
    assert vision is not None
    for tensor in (*vision.tower, *vision.projector):  # under the same names, bit for bit
        stored = read_tensor(tmp_path / "out" / "model.safetensors", places[tensor.stored_name])
        assert torch.equal(stored, kept.load(tensor.name))
    notes = beside_notes(kept, source)
    assert notes[0].startswith("images were not judged")
    assert all("bit for bit" in note for note in notes[1:])
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"preprocessor_config.json", "processor_config.json", "chat_template.jinja"} <= names


@pytest.mark.slow
@pytest.mark.parametrize("family", EIGHT)
def test_tower_and_projector_of_eight_bits(family: str, tmp_path: Path) -> None:
    folder = write_vision_model(tmp_path / "model", family)
    _, source = check(family, folder, tmp_path, vision="int8", projector="int8", method="rtn")
    notes = beside_notes(CheckpointSource(folder), source)
    assert "differs from the reference's" in notes[1]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"projector": "int8"}, {"vision": "int8"}, {"vision": "int4", "few_bits": True}])
def test_one_part_alone_where_the_projector_lies_in_the_tower(asked: dict[str, Any], tmp_path: Path) -> None:
    check("qwen2_5_vl", write_vision_model(tmp_path / "model", "qwen2_5_vl"), tmp_path, method="rtn", **asked)


@pytest.mark.slow
def test_a_decoder_linear_kept_by_hand_is_ignored(tmp_path: Path) -> None:
    from bitwright.core.plan import Override

    overrides = [Override(pattern="*.layers.1.mlp.down_proj", type="")]
    plan, _ = check("llava", write_vision_model(tmp_path / "model", "llava"), tmp_path, overrides=overrides)
    assert plan.tensors[0].name == "model.embed_tokens.weight"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llava", "idefics3", "gemma3"])
def test_a_gguf_file_holds_the_decoder(family: str, tmp_path: Path) -> None:
    folder = write_vision_model(tmp_path / "model", family)
    made(folder, tmp_path / "out", format="gguf", bits=None, type="Q8_0", method="rtn")
    source, original = open_source(tmp_path / "out"), CheckpointSource(folder)
    error = (walked(source) - walked(original)).square().mean() / walked(original).square().mean()
    assert float(error) < 1e-3
    assert beside_notes(original, source)[1] == "the file holds the decoder alone"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vision_model(tmp_path_factory.mktemp("source") / "model", "qwen2_vl")


def test_from_plan_to_verdict(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, text = tmp_path / "out", text_file(tmp_path / "text.txt")
    asked = ("--format", "compressed-tensors", "--bits", "4", "--group-size", "32", "--projector", "int8")
    few = run_main(capsys, "quantize", model, "--out", out, *asked, "--vision", "int4")
    assert (few.code, few.errors[0].count("fewer than 8 bits")) == (2, 1)
    written = run_main(
        capsys, "quantize", model, "--out", out, *asked, "--method", "rtn", "--calibration", text, "--samples", "2",
        "--length", "16", "-q",
    )  # fmt: skip
    assert written.code == 0, written.err
    other = text_file(tmp_path / "other.txt", step=6007)
    judged = run_main(
        capsys, "validate", out, "--reference", model, "--text", other, "--windows", "4", "--length", "32", "--json"
    )
    assert "images were not judged" in judged.out
    assert "the vision tower is the reference's, bit for bit" in judged.out
    assert "the projector differs" in judged.out
    seen = run_main(capsys, "inspect", out)
    assert "Qwen2VLForConditionalGeneration" in seen.out
    assert "vision tower bytes" in seen.out


def test_an_interrupted_run_gives_the_same_bytes(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bitwright.pipeline import run

    def stop(*_: object) -> list[str]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run, "_beside", stop)
        with pytest.raises(KeyboardInterrupt):
            made(model, tmp_path / "out", method="rtn", vision="int8")
    made(model, tmp_path / "out", method="rtn", vision="int8")
    made(model, tmp_path / "whole", method="rtn", vision="int8")
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "whole"))
    assert first == second


def test_what_is_not_done_is_said(model: Path, tmp_path: Path) -> None:
    made(model, tmp_path / "out", method="rtn")
    with pytest.raises(UnsupportedError, match="vision-language models are not converted"):
        api.convert(tmp_path / "out", "gptq", tmp_path / "gptq")
    with pytest.raises(UnsupportedError, match="adapters of vision-language models"):
        api.plan(model, lora=tmp_path)


def test_another_tower_is_another_model(model: Path, tmp_path: Path) -> None:
    source = CheckpointSource(model)
    other = CheckpointSource(write_vision_model(tmp_path / "other", "llava"))
    with pytest.raises(MismatchError, match="vision tower"):
        beside_notes(source, other)
