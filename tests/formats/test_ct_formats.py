"""Every layout of compressed-tensors that we write: settings of the library's presets, values of its decoder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme
from packed_models import SMALL, plan_for, write_artifact
from safetensors.torch import load_file, save_file

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import Plan
from bitwright.core.protocols import RoundsInputs
from bitwright.core.schemes import FloatScheme, InputRounding, IntScheme, MinifloatScheme
from bitwright.facts.compressed_types import COMPRESSED_TYPES, LinearScheme
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.reader import CompressedTensorsSource
from bitwright.formats.compressed.writer import CompressedTensorsWriter
from bitwright.formats.folders.quantization_config import format_of, quantization_config
from bitwright.formats.packing import padded_words_for
from bitwright.quantize.solve import solve
from bitwright.quantize.statistics import Statistics
from bitwright.tensors.qtensor import QTensor
from checkpoints import write_checkpoint

UP = "model.layers.0.mlp.up_proj"
WIDTHS = {
    f"W{bits}A16 {group or 'channel'} {'sym' if symmetric else 'asym'}": IntScheme(
        bits=bits, group_size=group, symmetric=symmetric
    )
    for bits in (2, 3, 5, 6, 7)
    for group, symmetric in ((32, True), (None, False))
}
WEIGHT_ONLY = {"FP8 weights": MinifloatScheme(element="e4m3", scaling="block")}
TYPES: dict[str, LinearScheme] = COMPRESSED_TYPES | WIDTHS | WEIGHT_ONLY
PEAK = 5.25  # makes the factor of NVFP4 a power of two, which survives the cast of the model to bf16


def write(checkpoint: Path, folder: Path, scheme: LinearScheme, **options: object) -> tuple[Plan, dict[str, object]]:
    """The checkpoint solved to nearest codes, as an artifact."""
    source = CheckpointSource(checkpoint)
    plan = plan_for(source.facts, scheme, method="rtn", **options)
    values: dict[str, object] = {}
    for entry in plan.tensors:
        weight = source.load(entry.name).float().numpy()
        if isinstance(entry.scheme, FloatScheme):
            values[entry.name] = weight
        else:
            gram = np.eye(weight.shape[1], dtype=np.float32)
            statistics = Statistics.of(gram, "rtn", peak=PEAK)
            values[entry.name] = solve(weight, statistics, entry.scheme, "rtn")[0]
    write_artifact(CompressedTensorsWriter(plan, checkpoint), plan, values, folder)
    return plan, values


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows and columns that whole blocks of 128 do not cover."""
    return write_checkpoint(
        tmp_path_factory.mktemp("source") / "model", layers=1, **(SMALL | {"hidden": 192, "intermediate": 320})
    )


@pytest.fixture(scope="module")
def even(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("even") / "model", layers=1, **SMALL)


@pytest.mark.parametrize("name", TYPES)
def test_the_library_decodes_what_we_decode(checkpoint: Path, even: Path, tmp_path: Path, name: str) -> None:
    source = even if TYPES[name].input_group == 128 else checkpoint
    plan, values = write(source, tmp_path / "out", TYPES[name])
    artifact = CompressedTensorsSource(tmp_path / "out")
    assert set(artifact.names()) == {entry.name for entry in plan.tensors}
    assert artifact.facts.bytes == sum(entry.bytes for entry in plan.tensors)
    assert artifact.facts.dtype == "BF16"
    seen = 0
    for entry in plan.tensors:
        value = values[entry.name]
        if isinstance(value, QTensor):
            loaded = artifact.load(entry.name)
            assert loaded.dtype == torch.float32
            np.testing.assert_array_equal(loaded.numpy(), value.decode())
            seen += 1
    assert seen == 7


@pytest.mark.parametrize("name", TYPES)
def test_the_engine_s_rounding_of_inputs_is_read_back(checkpoint: Path, even: Path, tmp_path: Path, name: str) -> None:
    scheme = TYPES[name]
    _, values = write(even if scheme.input_group == 128 else checkpoint, tmp_path / "out", scheme)
    artifact = CompressedTensorsSource(tmp_path / "out")
    assert isinstance(artifact, RoundsInputs)
    assert artifact.input_rounding("lm_head") is None
    found = artifact.input_rounding(UP)
    if scheme.activations is None:
        assert found is None
        return
    stored = values[f"{UP}.weight"].fields.get("input_scale")
    expected = InputRounding(scheme=scheme.activations, scale=None if stored is None else float(stored[0]))
    assert found == expected
    assert (stored is None) == scheme.activations.dynamic


@pytest.mark.parametrize("name", [name for name in COMPRESSED_TYPES if name != "W8A8_STATIC"])
def test_settings_are_those_of_the_library_s_preset(even: Path, name: str) -> None:
    raw = quantization_config(plan_for(CheckpointSource(even).facts, COMPRESSED_TYPES[name], method="rtn"))
    group = QuantizationConfig.model_validate(raw).config_groups["group_0"]
    preset = preset_name_to_scheme(name, ["Linear"])
    for part in ("weights", "input_activations"):
        ours, theirs = getattr(group, part), getattr(preset, part)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            left_out = {"observer", "observer_kwargs", "zp_dtype"}
            assert ours.model_dump(exclude=left_out) == theirs.model_dump(exclude=left_out)
            assert ours.zp_dtype == theirs.zp_dtype
    assert raw["format"] == raw["config_groups"]["group_0"]["format"] == format_of(COMPRESSED_TYPES[name])


def test_two_formats_are_called_mixed(even: Path, tmp_path: Path) -> None:
    head = COMPRESSED_TYPES["FP8_DYNAMIC"]
    _, values = write(even, tmp_path / "out", COMPRESSED_TYPES["NVFP4"], head=head)
    raw = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert raw["format"] == "mixed-precision"
    assert {group["format"] for group in raw["config_groups"].values()} == {"nvfp4-pack-quantized", "float-quantized"}
    artifact = CompressedTensorsSource(tmp_path / "out")
    for name in ("lm_head", UP):
        np.testing.assert_array_equal(artifact.load(f"{name}.weight").numpy(), values[f"{name}.weight"].decode())
    assert artifact.input_rounding("lm_head") == InputRounding(scheme=head.activations)


def test_five_bit_exponents_have_no_name_here(even: Path) -> None:
    plan = plan_for(CheckpointSource(even).facts, MinifloatScheme(element="e5m2", scaling="channel"))
    with pytest.raises(UnsupportedError, match="E5M2"):
        CompressedTensorsWriter(plan, even)


def test_the_older_words_of_three_bits_are_read(even: Path, tmp_path: Path) -> None:
    scheme, folder = IntScheme(bits=3, group_size=32), tmp_path / "out"
    _, values = write(even, folder, scheme)
    tensors = load_file(folder / "model.safetensors")
    for name, value in values.items():
        if isinstance(value, QTensor):
            rows, columns = value.shape
            words = np.zeros((rows, padded_words_for(columns, 3)), dtype=np.uint32)
            for column in range(columns):
                stored = (value.codes[:, column].astype(np.int64) + 4).astype(np.uint32)
                words[:, column // 10] |= stored << np.uint32(3 * (column % 10))
            tensors[f"{name.removesuffix('.weight')}.weight_packed"] = torch.from_numpy(words.view(np.int32))
    save_file(tensors, folder / "model.safetensors")
    artifact = CompressedTensorsSource(folder)
    np.testing.assert_array_equal(artifact.load(f"{UP}.weight").numpy(), values[f"{UP}.weight"].decode())


@pytest.mark.parametrize(
    ("name", "part", "shape", "message"),
    [
        ("NVFP4", "weight_global_scale", (2,), r"expected F32 \[1\]"),
        ("NVFP4", "weight_scale", (320, 11), r"expected F8_E4M3 \[320, 12\]"),
        ("FP8_BLOCK", "weight_scale", (2, 2), r"expected BF16 or F16 or F32 \[3, 2\]"),
        ("FP8", "input_scale", (3,), r"expected BF16 or F16 or F32 \[1\]"),
        ("MXFP8", "weight_scale", (320, 5), r"expected U8 or F8_E8M0 \[320, 6\]"),
        ("W8A8", "weight_scale", (319, 1), r"\[320, 1\]"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    checkpoint: Path, tmp_path: Path, name: str, part: str, shape: tuple[int, ...], message: str
) -> None:
    write(checkpoint, tmp_path / "out", COMPRESSED_TYPES[name])
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    kind = tensors[f"{UP}.{part}"].dtype
    tensors[f"{UP}.{part}"] = torch.zeros(shape).to(kind)
    save_file(tensors, tmp_path / "out" / "model.safetensors")
    with pytest.raises(InputError, match=message):
        CompressedTensorsSource(tmp_path / "out")


def test_activations_of_a_kind_that_is_not_known_are_refused(even: Path, tmp_path: Path) -> None:
    write(even, tmp_path / "out", COMPRESSED_TYPES["W8A8"])
    path = tmp_path / "out" / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["config_groups"]["group_0"]["input_activations"]["symmetric"] = False
    path.write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="symmetric False"):
        CompressedTensorsSource(tmp_path / "out").input_rounding(UP)


def logits(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(tokens).logits


# The library rounds decoded NVFP4 weights to bf16; inputs that move by that much change some of their 4-bit codes
LOOSER = {"NVFP4": 0.4}
# compressed-tensors 0.20 under transformers 5.23 does not load these as they are:
REFUSED = {name for name in WIDTHS if name.endswith("asym")}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name in TYPES if name not in REFUSED])
def test_transformers_computes_the_same_logits(even: Path, tmp_path: Path, name: str) -> None:
    from transformers import AutoModelForCausalLM

    from bitwright.modeling.walk import Walker

    write(even, tmp_path / "out", TYPES[name])
    tokens = torch.randint(0, 320, (2, 24), generator=torch.Generator().manual_seed(0))
    # The library decodes 4-bit floats and MX to bf16 whatever it is asked for, so these models are widened afterwards
    loaded = torch.bfloat16 if TYPES[name].input_group in (16, 32) and "FP" in name else torch.float32
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=loaded).eval()
    logits(model, tokens)  # the first call decodes the weights
    theirs = logits(torch.nn.Module.float(model), tokens)  # its own `float` refuses quantized models
    walker = Walker(CompressedTensorsSource(tmp_path / "out"))
    hidden = walker.embed(tokens)
    for index in range(walker.layers):
        hidden = walker.run_block(index, hidden)
    ours = walker.logits(hidden)
    original = Walker(CheckpointSource(even))
    bare = original.logits(original.run_block(0, original.embed(tokens)))
    change = float((ours - bare).norm())
    assert change > 0
    assert float((theirs - ours).norm()) < LOOSER.get(name, 0.1) * change
