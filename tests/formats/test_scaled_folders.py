"""fp8 and ModelOpt folders: decoded values, foreign loaders, ModelOpt's own bytes, and distrust."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder_models import WRITERS, build_folder, count_bytes, plan_folder
from safetensors.torch import load_file, save_file

from bitwright.core.errors import BitwrightError, InputError, UnsupportedError, UsageError
from bitwright.core.plan import ArtifactFormat, DeviceFacts
from bitwright.core.schemes import MinifloatScheme
from bitwright.facts.float_folders import TYPES
from bitwright.facts.model import model_facts
from bitwright.formats.scaled.encode import matrix_of
from bitwright.formats.scaled.modelopt_reader import ModelOptSource
from bitwright.formats.sniff import open_source, sniff
from bitwright.planner.build import make_plan
from bitwright.quantize.minifloat import minifloat_grid, nearest_codes, shared_fields
from bitwright.tensors.qtensor import QTensor
from checkpoints import write_checkpoint

SIZES = {"hidden": 128, "intermediate": 256, "heads": 4, "kv_heads": 4, "vocab": 320}
CASES = [(format, name) for format, types in TYPES.items() for name in types]
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "modelopt.json").read_text())
UP = "model.layers.0.mlp.up_proj"
DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", layers=1, **SIZES)


@pytest.fixture(scope="module")
def folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Folder, plan and values of a type, each made once."""
    made: dict[tuple[str, str], Any] = {}

    def build(format: ArtifactFormat, name: str) -> Any:
        if (format, name) not in made:
            out = tmp_path_factory.mktemp("artifact") / "out"
            made[format, name] = (out, *build_folder(checkpoint, out, format, TYPES[format][name]))
        return made[format, name]

    return build


@pytest.mark.parametrize(("format", "name"), CASES)
def test_readers_see_what_was_written(folder: Callable[..., Any], format: str, name: str) -> None:
    out, plan, values = folder(format, name)
    assert sniff(out) == format
    source = open_source(out)
    assert set(source.names()) == {entry.name for entry in plan.tensors}
    assert source.facts.bytes == count_bytes(plan)
    for tensor, value in values.items():
        expected = value.decode() if isinstance(value, QTensor) else value
        np.testing.assert_array_equal(source.load(tensor).float().numpy(), expected)
    rounding = source.input_rounding(UP)
    scheme = TYPES[format][name]
    assert (None if rounding is None else rounding.scheme) == scheme.activations
    if rounding is not None and rounding.scale is not None:
        stored = float(values[f"{UP}.weight"].fields["input_scale"][0])
        assert rounding.scale == pytest.approx(1 / stored if scheme.scaling == "nv" else stored)
    with pytest.raises(InputError, match="has no tensor"):
        source.load(f"{UP}.weight_scale")


def test_transformers_decodes_blocks_to_the_same_values(folder: Callable[..., Any]) -> None:
    """Its loader dequantizes to float32 where asked to."""
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    out, _, values = folder("fp8", "FP8_BLOCK")
    settings = FineGrainedFP8Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(out, quantization_config=settings, dtype=torch.float32)
    state = model.state_dict()
    for name, value in values.items():
        if isinstance(value, QTensor):
            assert state[name].dtype == torch.float32
            np.testing.assert_array_equal(state[name].numpy(), value.decode())


@pytest.mark.parametrize("name", ["NVFP4A16", "FP8"])
def test_modelopt_decodes_its_own_bytes_as_we_do(name: str) -> None:
    made = GOLDEN[name]
    scheme = MinifloatScheme(element="e4m3", scaling="tensor") if name == "FP8" else TYPES["modelopt"][name]
    state = {
        "weight": torch.tensor(made["weight"], dtype=torch.uint8),
        "weight_scale": torch.tensor(made["weight_scale"]),
    }
    if name != "FP8":
        state["weight_scale"] = torch.tensor(made["weight_scale"], dtype=torch.uint8).view(torch.float8_e4m3fn)
        state["weight_scale_2"] = torch.tensor(made["weight_scale_2"])
    value = matrix_of(scheme, state)
    np.testing.assert_array_equal(value.decode(), np.array(made["decoded"], dtype=np.float32))


def test_plain_nvfp4_is_modelopts(folder: Callable[..., Any]) -> None:
    """Factor, local scales and codes from the largest magnitudes alone, without a search."""
    weight = np.array(GOLDEN["weight_values"], dtype=np.float32)
    scheme = TYPES["modelopt"]["NVFP4A16"]
    shared = shared_fields(float(np.abs(weight).max()), scheme)
    _, fields = minifloat_grid(weight, np.ones(weight.shape[1], dtype=np.float32), scheme, shared, search="plain")
    assert float(shared["global_scale"][0]) == pytest.approx(GOLDEN["NVFP4A16"]["weight_scale_2"], rel=2e-7)
    np.testing.assert_array_equal(fields["scale_codes"], np.array(GOLDEN["NVFP4A16"]["weight_scale"]))
    codes = nearest_codes(weight, scheme, {**fields, **shared})
    decoded = QTensor(scheme=scheme, codes=codes, fields={**fields, **shared}).decode()
    np.testing.assert_allclose(decoded, np.array(GOLDEN["NVFP4A16"]["decoded"]), rtol=3e-7)


def test_modelopts_older_description_alone_is_enough(folder: Callable[..., Any], tmp_path: Path) -> None:
    out, _, values = folder("modelopt", "NVFP4")
    bare = copied(out, tmp_path / "bare")
    config = json.loads((bare / "config.json").read_text())
    described = json.loads((bare / "hf_quant_config.json").read_text())["quantization"]
    assert described["quant_algo"] == "NVFP4"
    assert described["group_size"] == 16
    del config["quantization_config"]
    (bare / "config.json").write_text(json.dumps(config))
    assert sniff(bare) == "modelopt"
    name = f"{UP}.weight"
    np.testing.assert_array_equal(ModelOptSource(bare).load(name).numpy(), values[name].decode())


def copied(folder: Path, to: Path) -> Path:
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).write_bytes(path.read_bytes())
    return to


def settings(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["quantization_config"] |= changes
        (folder / "config.json").write_text(json.dumps(config))

    return change


def tensor(name: str, replace: Callable[[torch.Tensor], torch.Tensor | None]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        value = replace(state.pop(name))
        if value is not None:
            state[name] = value
        save_file(state, folder / "model.safetensors")

    return change


@pytest.mark.parametrize(
    ("format", "name", "change", "message"),
    [
        ("fp8", "FP8_BLOCK", settings(weight_block_size=[64, 64]), "blocks of"),
        ("fp8", "FP8_BLOCK", settings(scale_fmt="ue8m0"), "scale_fmt 'ue8m0'"),
        ("fp8", "FP8_BLOCK", settings(activation_scheme="static"), "activation_scheme `static` with blocks"),
        ("fp8", "FP8_BLOCK", tensor(f"{UP}.weight_scale_inv", lambda t: t[:1]), "expected F32 or BF16 or F16"),
        ("fp8", "FP8", tensor(f"{UP}.input_scale", lambda t: None), "lacks `.*input_scale`"),
        ("modelopt", "NVFP4", settings(quant_algo="W4A8_AWQ"), "quant_algo `W4A8_AWQ`"),
        ("modelopt", "NVFP4", tensor(f"{UP}.weight_scale", lambda t: t[:, 1:].contiguous()), "expected F8_E4M3"),
        ("modelopt", "FP8", tensor(f"{UP}.weight_scale", lambda t: t * torch.nan), "NaN or infinite"),
    ],
)  # fmt: skip
def test_damage_is_named(
    folder: Callable[..., Any], tmp_path: Path, format: str, name: str, change: Callable[[Path], None], message: str
) -> None:
    changed = copied(folder(format, name)[0], tmp_path / "changed")
    change(changed)
    with pytest.raises(BitwrightError, match=message):
        open_source(changed).load(f"{UP}.weight")


def test_what_has_no_place_is_refused(checkpoint: Path) -> None:
    nv, block = TYPES["modelopt"]["NVFP4"], TYPES["fp8"]["FP8_BLOCK"]
    for format, scheme in (("fp8", nv), ("modelopt", block)):
        with pytest.raises(UnsupportedError, match="folders cannot hold"):
            WRITERS[format](plan_folder(checkpoint, format, scheme, sized=False), checkpoint)
    mixed = {f"{UP}.weight": block, "model.layers.0.mlp.down_proj.weight": TYPES["fp8"]["FP8"]}
    with pytest.raises(UnsupportedError, match="one setting for all"):
        WRITERS["fp8"](plan_folder(checkpoint, "fp8", mixed), checkpoint)


def test_requests(checkpoint: Path) -> None:
    facts = model_facts(checkpoint)
    plan = make_plan(facts, DEVICE, use_case="chat", format="fp8")
    assert (plan.type, plan.format, plan.method) == ("FP8_BLOCK", "fp8", "gptq")
    assert make_plan(facts, DEVICE, use_case="chat", format="modelopt").type == "NVFP4"
    with pytest.raises(UsageError, match="`NVFP4` is no type of fp8"):
        make_plan(facts, DEVICE, use_case="chat", format="fp8", type="NVFP4")
    with pytest.raises(UsageError, match="have their bits in their names"):
        make_plan(facts, DEVICE, use_case="chat", format="fp8", bits=8)
    whole = make_plan(facts, DEVICE, use_case="chat", format="fp8", type="FP8")
    assert any("transformers" in warning for warning in whole.warnings)
