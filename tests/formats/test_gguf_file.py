"""Whole files: gguf reads what the writer lays out, the reader gives back what went in, damage is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from bitwright.core.errors import InputError, UnsupportedError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Memory, ModelFacts, Plan, TensorPlan
from bitwright.core.schemes import FloatScheme, GgmlScheme, IntScheme
from bitwright.facts.families import gguf_name
from bitwright.facts.model import model_facts
from bitwright.formats.ggml.blocks import unpack
from bitwright.formats.ggml.file import GgufWriter
from bitwright.formats.ggml.metadata import rope_parameters
from bitwright.formats.ggml.names import permutation
from bitwright.formats.ggml.reader import GgufSource, describe
from bitwright.formats.ggml.summary import embed_summary, open_gguf, read_summary, slot, tensor_data_sha256
from checkpoints import write_checkpoint

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 24.0,
}


def make_plan(facts: ModelFacts, preset: str = "F16", matrices: str = "F16") -> Plan:
    """Every matrix as `matrices`, every vector F32."""
    entries = []
    for tensor in facts.tensors:
        scheme = GgmlScheme(type=matrices) if len(tensor.shape) == 2 else FloatScheme(dtype="f32")
        rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
        entries.append(
            TensorPlan(
                name=tensor.name,
                stored_name=gguf_name(tensor.name, facts.family),
                shape=tensor.shape,
                scheme=scheme,
                bytes=scheme.bytes_for(rows, tensor.shape[-1]),
                reason="",
            )
        )
    return Plan(
        model=facts,
        device=DeviceFacts(name="test", kind="cpu", memory_bytes=0),
        use_case="chat",
        format="gguf",
        type=preset,
        method="rtn",
        engine="llama.cpp",
        launch=(),
        calibration=CalibrationPlan(),
        tensors=tuple(entries),
        file_bytes=0,
        bits_per_weight=0.0,
        memory=Memory(weights=0, kv_cache=0, overhead=0, total=0, available=0, context=0),
        reasons=(),
    )


def write_file(plan: Plan, folder: Path, path: Path, values: dict[str, Any]) -> Path:
    """Fill the layout in reverse order: offsets alone must place every byte."""
    writer = GgufWriter(plan, folder)
    (layout,) = writer.layouts()
    regions = dict(writer.constants())
    for entry in plan.tensors:
        regions |= writer.encode(entry, values[entry.name])
    assert regions.keys() == layout.regions.keys()
    data = bytearray(layout.total_bytes)
    data[: len(layout.header)] = layout.header
    for name in reversed(list(regions)):
        region = layout.regions[name]
        assert len(regions[name]) == region.bytes
        data[region.offset : region.offset + region.bytes] = regions[name]
    path.write_bytes(data)
    return path


def float_weights(folder: Path) -> dict[str, np.ndarray]:
    return {name: value.float().numpy() for name, value in load_file(folder / "model.safetensors").items()}


def float_file(tmp_path: Path, family: str = "llama", *, matrices: str = "F16", **options: Any) -> tuple[Path, Path]:
    folder = write_checkpoint(tmp_path / "tiny", family, **options)
    plan = make_plan(model_facts(folder), matrices, matrices)
    return folder, write_file(plan, folder, tmp_path / "tiny.gguf", float_weights(folder))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_and_config_come_back(tmp_path: Path, family: str, tied: bool) -> None:
    folder, path = float_file(tmp_path, family, matrices="F32", tied=tied)
    source, weights = GgufSource(path), float_weights(folder)
    assert set(source.names()) == set(weights)
    for name, value in weights.items():
        loaded = source.load(name)
        assert loaded.dtype == torch.float32
        assert torch.equal(loaded, torch.from_numpy(value)), name
    original = json.loads((folder / "config.json").read_text())
    kept = ["hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers"]
    kept += ["vocab_size", "max_position_embeddings", "tie_word_embeddings", "hidden_act", "bos_token_id"]
    assert {key: source.config[key] for key in kept} == {key: original[key] for key in kept}
    assert source.config["rms_norm_eps"] == pytest.approx(original["rms_norm_eps"], rel=1e-6)
    assert source.config["rope_parameters"] == original["rope_parameters"]
    facts, expected = source.facts, model_facts(folder)
    for field in ("layers", "hidden", "intermediate", "heads", "kv_heads", "head_dim", "vocab", "context", "tied"):
        assert getattr(facts, field) == getattr(expected, field), field
    assert facts.parameters == expected.parameters


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_the_rebuilt_config_makes_the_same_model(tmp_path: Path, family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    folder, path = float_file(tmp_path, family, matrices="F32")
    source = GgufSource(path)
    rebuilt = AutoModelForCausalLM.from_config(AutoConfig.for_model(**source.config), dtype=torch.float32)
    missing, unexpected = rebuilt.load_state_dict({name: source.load(name) for name in source.names()}, strict=False)
    assert (missing, unexpected) == ([], [])
    original = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = torch.arange(3, 35).reshape(1, -1)
    with torch.no_grad():
        torch.testing.assert_close(rebuilt(tokens).logits, original(tokens).logits, rtol=1e-5, atol=1e-5)


def test_stored_rows_of_q_are_interleaved_and_gguf_sees_the_values(tmp_path: Path) -> None:
    folder, path = float_file(tmp_path)
    weights = float_weights(folder)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    q = weights["model.layers.1.self_attn.q_proj.weight"]
    assert np.array_equal(stored["blk.1.attn_q.weight"].data, q[permutation(len(q), 4)].astype(np.float16))
    v = weights["model.layers.1.self_attn.v_proj.weight"]
    assert np.array_equal(stored["blk.1.attn_v.weight"].data, v.astype(np.float16))
    norm = stored["output_norm.weight"]
    assert norm.tensor_type == gguf.GGMLQuantizationType.F32
    assert np.array_equal(norm.data, weights["model.norm.weight"])


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_K", "Q6_K"])
def test_codes_reach_the_file_and_gguf_decodes_them(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "tiny", hidden=256, intermediate=256, heads=4, kv_heads=2, layers=1)
    plan = make_plan(model_facts(folder), "Q4_K_M", kind)
    values: dict[str, Any] = float_weights(folder)
    rng = np.random.default_rng(0)
    for entry in plan.tensors:
        if len(entry.shape) == 2:
            raw = rng.integers(0, 48, entry.bytes, dtype=np.uint8).tobytes()
            values[entry.name] = unpack(raw, kind, *entry.shape)
    path = write_file(plan, folder, tmp_path / "tiny.gguf", values)
    source = GgufSource(path)
    for entry in plan.tensors:
        if len(entry.shape) == 2:
            assert np.array_equal(source.load(entry.name).numpy(), values[entry.name].decode()), entry.name
    assert describe(path).metadata["general.file_type"] == 15
    assert describe(path).types[0].type == kind


def test_headers_are_equal_bytes_for_equal_inputs_and_aligned(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    plan = make_plan(model_facts(folder))
    first, second = (GgufWriter(plan, folder).layouts()[0] for _ in range(2))
    assert first == second
    assert first.name == "model-F16.gguf"
    assert first.data_start == len(first.header)
    assert all(region.offset % 32 == 0 for region in first.regions.values())
    assert first.total_bytes % 32 == 0


@pytest.mark.parametrize(
    ("family", "rope"),
    [("llama", LLAMA3), ("llama", {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}), ("qwen2", YARN)],
)
def test_rotary_scaling_comes_back(tmp_path: Path, family: str, rope: dict[str, Any]) -> None:
    _, path = float_file(tmp_path, family, hidden=128, heads=2, overrides={"rope_parameters": rope})
    assert GgufSource(path).config["rope_parameters"] == rope
    assert describe(path).parameters == GgufSource(path).facts.parameters


def test_llama3_factors_are_those_of_transformers(tmp_path: Path) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    _, path = float_file(tmp_path, hidden=128, heads=2, overrides={"rope_parameters": LLAMA3})
    stored = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "rope_freqs.weight")
    config = LlamaConfig(hidden_size=128, num_attention_heads=2, rope_parameters=LLAMA3)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    plain = 1 / (5e5 ** (np.arange(0, 64, 2) / 64))
    assert len(set(stored.data.tolist())) > 4
    np.testing.assert_allclose(plain / stored.data, scaled.numpy(), rtol=2e-6)


@pytest.mark.parametrize("name", [name for name in LLAMA3 if name not in ("rope_type", "rope_theta")])
def test_rotary_scaling_without_a_number_that_it_needs_is_refused(name: str) -> None:
    rope = {key: value for key, value in LLAMA3.items() if key != name}
    with pytest.raises(InputError, match=name):
        rope_parameters({"rope_parameters": rope})


def test_rotary_scaling_that_is_no_object_is_refused() -> None:
    with pytest.raises(InputError, match="'linear'"):
        rope_parameters({"rope_scaling": "linear"})


@pytest.mark.parametrize("kind", ["longrope", "dynamic", "su"])
def test_rotary_scaling_without_a_place_is_refused(tmp_path: Path, kind: str) -> None:
    rope = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    folder = write_checkpoint(tmp_path / "tiny", overrides={"rope_parameters": rope})
    facts = model_facts(write_checkpoint(tmp_path / "plain"))
    with pytest.raises(UnsupportedError, match=kind):
        GgufWriter(make_plan(facts), folder)


@pytest.mark.parametrize("value", [7e4, -65520.0, float("nan"), float("inf")])
def test_values_that_half_precision_cannot_hold_are_refused(tmp_path: Path, value: float) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    plan = make_plan(model_facts(folder))
    entry = next(entry for entry in plan.tensors if entry.name == "lm_head.weight")
    values = np.zeros(entry.shape, dtype=np.float32)
    values[3, 4] = value
    with pytest.raises(InputError, match=r"lm_head\.weight"):
        GgufWriter(plan, folder).encode(entry, values)


def test_the_largest_half_is_kept(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "tiny")
    plan = make_plan(model_facts(folder))
    entry = next(entry for entry in plan.tensors if entry.name == "lm_head.weight")
    encoded = GgufWriter(plan, folder).encode(entry, np.full(entry.shape, 65519.0, dtype=np.float32))
    assert np.all(np.frombuffer(encoded["output.weight"], dtype="<f2") == np.float16(65504))


def test_plans_that_gguf_cannot_hold_are_refused(tmp_path: Path) -> None:
    import msgspec

    folder = write_checkpoint(tmp_path / "tiny")
    plan = make_plan(model_facts(folder))
    first = msgspec.structs.replace(plan.tensors[0], scheme=IntScheme(bits=4, group_size=32))
    with pytest.raises(UnsupportedError, match="W4A16"):
        GgufWriter(msgspec.structs.replace(plan, tensors=(first, *plan.tensors[1:])), folder)
    with pytest.raises(UnsupportedError, match="Q9_Z"):
        GgufWriter(msgspec.structs.replace(plan, type="Q9_Z"), folder).layouts()


def test_the_verdict_moves_no_tensor_byte(tmp_path: Path) -> None:
    _, path = float_file(tmp_path)
    before, digest, fingerprint = path.read_bytes(), tensor_data_sha256(path), GgufSource(path).facts.fingerprint
    place = slot(open_gguf(path))
    assert place is not None
    assert read_summary(path) == "{}"
    summary = json.dumps({"verdict": "PASS", "note": "é" * 300})
    embed_summary(path, summary)
    after = path.read_bytes()
    assert read_summary(path) == summary == describe(path).summary
    assert (before[: place[0]], before[sum(place) :]) == (after[: place[0]], after[sum(place) :])
    assert tensor_data_sha256(path) == digest
    assert GgufSource(path).facts.fingerprint == fingerprint
    assert sorted(os.listdir(path.parent)) == ["tiny", "tiny.gguf"]
    embed_summary(path, "{}")
    assert path.read_bytes() == before


def test_a_file_without_slot_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "foreign.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("x", np.zeros(4, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_summary(path) is None
    with pytest.raises(UnsupportedError, match="no place"):
        embed_summary(path, "{}")
    with pytest.raises(InputError, match=r"token_embd\.weight"):
        GgufSource(path)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    _, path = float_file(tmp_path)
    whole = path.read_bytes()
    start = int(gguf.GGUFReader(path).data_offset)
    bad = tmp_path / "bad.gguf"
    for data, message in [
        (b"", "not a GGUF"),
        (b"PK\x03\x04" + whole[4:], "not a GGUF"),
        (whole[:4] + b"\x01" + whole[5:], "version 1"),
        (whole[:20], "version|GGUF"),
        (whole[:8] + b"\xff" * 8 + whole[16:], "claims"),
        (whole[: start // 2], "cut short"),
        (whole[: start + 1000], "cut short"),
        (whole[:-64], "cut short"),
    ]:
        bad.write_bytes(data)
        with pytest.raises(InputError, match=message):
            GgufSource(bad)
    with pytest.raises(InputError, match="does not exist"):
        GgufSource(tmp_path / "absent.gguf")


def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    _, path = float_file(tmp_path)
    tensor = next(tensor for tensor in gguf.GGUFReader(path).tensors if tensor.name == "blk.1.ffn_up.weight")
    data = bytearray(path.read_bytes())
    data[tensor.data_offset + 10 : tensor.data_offset + 12] = b"\x00\x7e"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"blk\.1\.ffn_up\.weight.*not finite"):
        GgufSource(path).load("model.layers.1.mlp.up_proj.weight")


def test_unknown_architectures_are_refused(tmp_path: Path) -> None:
    _, path = float_file(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0gemma", 1))
    with pytest.raises(UnsupportedError, match="gemma"):
        GgufSource(path)
