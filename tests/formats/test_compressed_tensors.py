"""The writer: layout, config, companions, exactness. What loaders make of it is in test_ct_reader.py."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from compressed_tensors.quantization import QuantizationConfig
from packed_models import SMALL, build_artifact, plan_for, random_qtensor, random_values, write_artifact
from safetensors import safe_open

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import TensorPlan
from bitwright.core.schemes import FloatScheme, GgmlScheme, IntScheme
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.encode import is_exact
from bitwright.formats.compressed.writer import CompressedTensorsWriter
from bitwright.formats.folders.quantization_config import quantization_config
from checkpoints import write_checkpoint

W4 = IntScheme(bits=4, group_size=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("source") / "model", **SMALL)
    for name in ("pytorch_model.bin", "modeling_custom.py", "LICENSE", "notes.txt"):
        (folder / name).write_text(name)
    return folder


def writer_for(checkpoint: Path, scheme: IntScheme, **options: object) -> CompressedTensorsWriter:
    return CompressedTensorsWriter(plan_for(CheckpointSource(checkpoint).facts, scheme, **options), checkpoint)


@pytest.mark.parametrize("scheme", [W4, IntScheme(bits=8, group_size=None, symmetric=False)])
def test_stored_bytes_are_those_of_the_plan(checkpoint: Path, scheme: IntScheme) -> None:
    plan = plan_for(CheckpointSource(checkpoint).facts, scheme)
    (layout,) = CompressedTensorsWriter(plan, checkpoint).layouts()
    assert layout.name == "model.safetensors"
    assert layout.total_bytes - layout.data_start == plan.file_bytes


def test_shards_follow_the_plan_and_the_index_names_them(checkpoint: Path, tmp_path: Path) -> None:
    plan, _ = build_artifact(checkpoint, tmp_path / "one", W4)
    build_artifact(checkpoint, tmp_path / "many", W4, max_shard_bytes=60_000)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in (tmp_path / "many").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == plan.file_bytes
    assert sorted(set(index["weight_map"].values())) == files
    with safe_open(tmp_path / "one" / "model.safetensors", framework="np") as whole:
        assert set(index["weight_map"]) == set(whole.keys())
    for name, file in index["weight_map"].items():
        with safe_open(tmp_path / "many" / file, framework="np") as reader:
            assert name in reader.keys()  # noqa: SIM118
    assert not (tmp_path / "one" / "model.safetensors.index.json").exists()


def test_equal_input_gives_equal_bytes(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_artifact(checkpoint, tmp_path / name, W4)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_companions_travel_but_pickles_and_code_do_not(checkpoint: Path) -> None:
    files = writer_for(checkpoint, W4).sidecars()
    assert set(files) == {
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
        "README.md", "LICENSE",
    }  # fmt: skip
    assert files["tokenizer.json"] == (checkpoint / "tokenizer.json").read_bytes()


def test_the_config_is_the_source_s_with_one_key_more(checkpoint: Path) -> None:
    config = json.loads(writer_for(checkpoint, W4).sidecars()["config.json"])
    added = config.pop("quantization_config")
    assert config == json.loads((checkpoint / "config.json").read_text())
    assert added["ignore"] == ["lm_head"]
    assert added["quantization_status"] == "compressed"
    assert added["config_groups"]["group_0"]["targets"] == ["Linear"]


@pytest.mark.parametrize(
    ("scheme", "method", "actorder", "strategy"),
    [
        (W4, "gptq", "static", "group"),
        (W4, "rtn", None, "group"),
        (IntScheme(bits=8, group_size=None), "gptq", None, "channel"),
    ],
)
def test_the_library_accepts_the_settings(
    checkpoint: Path, scheme: IntScheme, method: str, actorder: str | None, strategy: str
) -> None:
    raw = quantization_config(plan_for(CheckpointSource(checkpoint).facts, scheme, method=method))
    weights = QuantizationConfig.model_validate(raw).config_groups["group_0"].weights
    assert raw["config_groups"]["group_0"]["weights"].get("actorder") == actorder
    assert ("actorder" in raw["config_groups"]["group_0"]["weights"]) == (actorder is not None)
    assert (weights.strategy, weights.group_size) == (strategy, scheme.group_size)
    assert (weights.num_bits, weights.symmetric, weights.dynamic) == (scheme.bits, scheme.symmetric, False)


def test_a_second_scheme_gets_a_group_of_its_own_and_leaves_the_ignore_list(checkpoint: Path) -> None:
    head = IntScheme(bits=8, group_size=128)
    raw = quantization_config(plan_for(CheckpointSource(checkpoint).facts, W4, head=head))
    assert raw["config_groups"]["group_1"]["targets"] == ["lm_head"]
    assert raw["ignore"] == []


def test_a_linear_layer_left_float_is_ignored(checkpoint: Path) -> None:
    plan = plan_for(CheckpointSource(checkpoint).facts, W4)
    kept = "model.layers.0.mlp.down_proj"
    entries = [
        msgspec.structs.replace(entry, scheme=FloatScheme(dtype="bf16")) if entry.name == f"{kept}.weight" else entry
        for entry in plan.tensors
    ]
    assert quantization_config(msgspec.structs.replace(plan, tensors=tuple(entries)))["ignore"] == ["lm_head", kept]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_float_tensors_keep_every_bit(tmp_path: Path, dtype: str) -> None:
    folder = write_checkpoint(tmp_path / "model", dtype=dtype, **SMALL)
    source = CheckpointSource(folder)
    plan = plan_for(source.facts, W4)
    write_artifact(CompressedTensorsWriter(plan, folder), plan, random_values(plan, source), tmp_path / "out")
    checked = 0
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as reader:
        for entry in plan.tensors:
            if isinstance(entry.scheme, FloatScheme):
                stored = reader.get_tensor(entry.name)
                assert stored.dtype == source.load(entry.name).dtype
                assert (stored == source.load(entry.name)).all()
                checked += 1
    assert checked == 2 * 2 + 3


def test_float16_that_overflows_is_refused(checkpoint: Path) -> None:
    entry = TensorPlan(
        name="model.norm.weight", stored_name="", shape=(2,), scheme=FloatScheme(dtype="f16"), bytes=4, reason=""
    )
    with pytest.raises(InputError, match=r"`model.norm.weight` holds values beyond 65504"):
        writer_for(checkpoint, W4).encode(entry, np.array([1.0, 7e4], dtype=np.float32))


def test_a_scale_that_would_be_rounded_is_our_bug(checkpoint: Path) -> None:
    plan = plan_for(CheckpointSource(checkpoint).facts, W4)
    entry = next(entry for entry in plan.tensors if entry.scheme == W4)
    value = random_qtensor(*entry.shape, W4, 0)
    value.fields["scale"][0, 0] = np.float32(0.1)
    with pytest.raises(AssertionError, match="not representable"):
        CompressedTensorsWriter(plan, checkpoint).encode(entry, value)


def test_exactness() -> None:
    values = np.array([1.5, 1 + 2**-10], dtype=np.float32)
    assert [is_exact(values, dtype) for dtype in ("f32", "f16", "bf16")] == [True, True, False]
    assert not is_exact(np.array([1e6], dtype=np.float32), "f16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scheme": GgmlScheme(type="Q4_K")}, "cannot hold Q4_K"),
        ({"shape": (128,)}, "not the weight of a linear layer"),
        ({"shape": (128, 100)}, "groups of 32 do not divide"),
    ],
)
def test_plans_that_do_not_fit_are_refused(checkpoint: Path, change: dict[str, object], message: str) -> None:
    plan = plan_for(CheckpointSource(checkpoint).facts, W4)
    entry = next(entry for entry in plan.tensors if entry.scheme == W4)
    broken = msgspec.structs.replace(plan, tensors=(msgspec.structs.replace(entry, **change),))
    with pytest.raises(UnsupportedError, match=message):
        CompressedTensorsWriter(broken, checkpoint)
