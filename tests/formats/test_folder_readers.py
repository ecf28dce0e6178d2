"""GPTQ, AWQ and bitsandbytes folders: what the readers decode, what transformers makes of them, and distrust."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from folder_models import SMALL, WRITERS, build_folder, count_bytes, int_scheme, plan_folder
from safetensors.torch import load_file, save_file

from bitwright.core.errors import BitwrightError, EnvironmentFault, InputError, UnsupportedError
from bitwright.core.schemes import CodebookScheme, Int8RowScheme, QuantScheme
from bitwright.formats.packed import bnb_reader
from bitwright.formats.packed.gptq_reader import GptqSource
from bitwright.formats.sniff import open_source, sniff
from bitwright.tensors.qtensor import QTensor
from checkpoints import write_checkpoint
from gptq_by_the_book import dequantize_by_the_book

UP = "model.layers.0.mlp.up_proj"
CASES: list[tuple[str, QuantScheme]] = [
    *(("gptq", int_scheme(bits, group)) for bits in (2, 3, 4, 8) for group in (32, 128, None)),
    *(("gptq", int_scheme(bits, 64, symmetric=False)) for bits in (2, 3, 4, 8)),
    *(("gptq_v2", int_scheme(bits, group, symmetric=False)) for bits in (2, 3, 4, 8) for group in (64, None)),
    ("gptq_v2", int_scheme(4, 128)),
    *(("awq", int_scheme(4, group, symmetric=False)) for group in (32, 64, 128)),
    *(("bitsandbytes", CodebookScheme(codebook=b, double_quant=d)) for b in ("nf4", "fp4") for d in (True, False)),
    ("bitsandbytes", Int8RowScheme()),
]  # fmt: skip
ids = [f"{format}-{scheme.label}".replace(" ", "-") for format, scheme in CASES]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", layers=1, **SMALL)


@pytest.mark.parametrize(("format", "scheme"), CASES, ids=ids)
def test_the_reader_decodes_what_was_solved(checkpoint: Path, tmp_path: Path, format: str, scheme: QuantScheme) -> None:
    plan, values = build_folder(checkpoint, tmp_path / "out", format, scheme, least_zero=int(format == "gptq"))
    assert sniff(tmp_path / "out") == format.removesuffix("_v2")
    source = open_source(tmp_path / "out")
    assert set(source.names()) == {entry.name for entry in plan.tensors}
    for entry in plan.tensors:
        value, loaded = values[entry.name], source.load(entry.name)
        expected = value.decode() if isinstance(value, QTensor) else value
        assert loaded.dtype == (torch.float32 if isinstance(value, QTensor) else torch.bfloat16)
        np.testing.assert_array_equal(loaded.float().numpy(), expected)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert sum(tensor.numel() * tensor.element_size() for tensor in stored.values()) == count_bytes(plan)
    assert source.facts.bytes == count_bytes(plan)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("format", ["gptq", "gptq_v2"])
def test_gptq_by_its_description(checkpoint: Path, tmp_path: Path, format: str, bits: int) -> None:
    _, values = build_folder(
        checkpoint, tmp_path / "out", format, int_scheme(bits, 32, symmetric=False), least_zero=int(format == "gptq")
    )
    stored = load_file(tmp_path / "out" / "model.safetensors")
    decoded = dequantize_by_the_book(stored, UP, bits, first=format == "gptq")
    np.testing.assert_array_equal(decoded, values[f"{UP}.weight"].decode())


def test_symmetric_zero_points_are_the_known_words(checkpoint: Path, tmp_path: Path) -> None:
    known = {("gptq", 4): 0x77777777, ("gptq_v2", 4): 0x88888888, ("gptq", 8): 0x7F7F7F7F, ("gptq_v2", 8): 0x80808080}
    for (format, bits), word in known.items():
        build_folder(checkpoint, tmp_path / f"{format}{bits}", format, int_scheme(bits, 128))
        zeros = load_file(tmp_path / f"{format}{bits}" / "model.safetensors")[f"{UP}.qzeros"]
        assert set(zeros.numpy().view(np.uint32).reshape(-1).tolist()) == {word}


def test_version_one_refuses_a_zero_point_of_zero(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has \d+ zero points of 0, which version 1") as caught:
        build_folder(checkpoint, tmp_path / "out", "gptq", int_scheme(4, 32, symmetric=False))
    assert caught.value.hint == "use --format gptq_v2"


def test_columns_in_another_order(checkpoint: Path, tmp_path: Path) -> None:
    build_folder(checkpoint, tmp_path / "out", "gptq_v2", int_scheme(4, 32, symmetric=False))
    path = tmp_path / "out" / "model.safetensors"
    stored = load_file(path)
    order = torch.from_numpy(np.random.default_rng(0).permutation(stored[f"{UP}.g_idx"].numel()))
    stored[f"{UP}.g_idx"] = stored[f"{UP}.g_idx"][order].contiguous()
    save_file(stored, path)
    source = GptqSource(tmp_path / "out")
    expected = dequantize_by_the_book(stored, UP, 4, first=False)
    np.testing.assert_array_equal(source.load(f"{UP}.weight").numpy(), expected)
    scheme = source.scheme(UP)
    assert scheme is not None
    assert scheme.ordered


def test_a_mixture_names_its_exceptions(checkpoint: Path, tmp_path: Path) -> None:
    schemes = {f"{UP}.weight": int_scheme(8, None), "model.layers.0.mlp.down_proj.weight": int_scheme(4, 32)}
    schemes["model.layers.0.self_attn.q_proj.weight"] = int_scheme(4, 32)
    _, values = build_folder(checkpoint, tmp_path / "out", "gptq", schemes)
    config = json.loads((tmp_path / "out" / "quantize_config.json").read_text())
    assert (config["bits"], config["group_size"], config["sym"]) == (4, 32, True)
    up, gate = r"^model\.layers\.0\.mlp\.up_proj$", r"^model\.layers\.0\.mlp\.gate_proj$"
    assert config["dynamic"][f"+:{up}"] == {"bits": 8, "group_size": -1, "sym": True}
    assert config["dynamic"][f"-:{gate}"] == {}
    source = open_source(tmp_path / "out")
    np.testing.assert_array_equal(source.load(f"{UP}.weight").numpy(), values[f"{UP}.weight"].decode())


def test_settings_beside_a_plain_config(checkpoint: Path, tmp_path: Path) -> None:
    build_folder(checkpoint, tmp_path / "out", "gptq", int_scheme(4, 32))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    expected = open_source(tmp_path / "out").load(f"{UP}.weight")
    del config["quantization_config"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert torch.equal(open_source(tmp_path / "out").load(f"{UP}.weight"), expected)


@pytest.mark.parametrize(
    "scheme",
    [scheme for format, scheme in CASES if format == "bitsandbytes"],
    ids=[name for name in ids if name.startswith("bits")],
)
def test_transformers_loads_bitsandbytes_folders(checkpoint: Path, tmp_path: Path, scheme: QuantScheme) -> None:
    from transformers import AutoModelForCausalLM

    _, values = build_folder(checkpoint, tmp_path / "out", "bitsandbytes", scheme)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    tokens = torch.arange(12)[None] * 7 % 300
    with torch.no_grad():
        theirs = model(tokens).logits
    module = model.get_submodule(UP)
    assert type(module).__name__ == ("Linear8bitLt" if isinstance(scheme, Int8RowScheme) else "Linear4bit")
    plain = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    for name, value in values.items():
        if isinstance(value, QTensor):
            plain.get_parameter(name).data = torch.from_numpy(value.decode())
    with torch.no_grad():
        ours = plain(tokens).logits
    # bfloat16 products in theirs; LLM.int8 also rounds the inputs of every linear to bytes
    tolerance = 0.02 if isinstance(scheme, Int8RowScheme) else 0.002
    assert float((theirs - ours).square().mean() / ours.square().mean()) < tolerance


def test_without_bitsandbytes(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_folder(checkpoint, tmp_path / "out", "bitsandbytes", CodebookScheme(codebook="nf4"))

    def missing(name: str) -> None:
        raise ImportError(f"No module named {name}")

    monkeypatch.setattr(bnb_reader.importlib, "import_module", missing)
    source = open_source(tmp_path / "out")
    assert source.facts.layers == 1
    with pytest.raises(EnvironmentFault, match="needs the package bitsandbytes"):
        source.load(f"{UP}.weight")


Damage = Callable[[dict[str, torch.Tensor], dict[str, Any]], None]
WEIGHT = f"{UP}.weight"
STATE = f"{WEIGHT}.quant_state.bitsandbytes__nf4"


def text(value: Any) -> torch.Tensor:
    return torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8)


def state_with(**changes: Any) -> Damage:
    def damage(tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
        tensors[STATE] = text(json.loads(bytes(tensors[STATE].numpy())) | changes)

    return damage


def change(name: str, to: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def damage(tensors: dict[str, torch.Tensor], settings: dict[str, Any]) -> None:
        tensors[name] = to(tensors[name]).contiguous()

    return damage


def drop(name: str) -> Damage:
    return lambda tensors, settings: (tensors.pop(name), None)[1]


def setting(**changes: Any) -> Damage:
    return lambda tensors, settings: settings.update(changes)


INT4, NF4 = int_scheme(4, 32, symmetric=False), CodebookScheme(codebook="nf4")
DAMAGES: list[tuple[str, QuantScheme, Damage, str]] = [
    ("gptq_v2", INT4, drop(f"{UP}.scales"), "lacks"),
    ("gptq_v2", INT4, change(f"{UP}.scales", lambda t: t[:-1]), r"I32 \[\d+, \d+\], expected I32"),
    ("gptq_v2", INT4, change(f"{UP}.qweight", lambda t: t.float()), "is F32"),
    ("gptq_v2", INT4, change(f"{UP}.qweight", lambda t: t[:-1]), "g_idx"),
    ("gptq_v2", INT4, change(f"{UP}.qzeros", lambda t: t[:, :-1]), "expected"),
    ("gptq_v2", INT4, change(f"{UP}.g_idx", lambda t: t + 1), "names group"),
    ("gptq_v2", INT4, change(f"{UP}.g_idx", lambda t: t - 1), "names group"),
    ("gptq_v2", INT4, change(f"{UP}.scales", lambda t: t * float("nan")), "NaN or infinite"),
    ("gptq_v2", INT4, setting(bits=5), "5 bits, expected"),
    ("gptq_v2", INT4, setting(checkpoint_format="marlin"), "checkpoint_format `marlin`"),
    ("gptq_v2", INT4, lambda t, s: (t[f"{UP}.qzeros"].fill_(-1), s.update(checkpoint_format="gptq"))[1], "no agreed"),
    ("awq", INT4, drop(f"{UP}.qzeros"), "lacks"),
    ("awq", INT4, change(f"{UP}.scales", lambda t: t[:-1]), "expected I32"),
    ("awq", INT4, change(f"{UP}.qweight", lambda t: t[:, :-1]), "expected I32"),
    ("awq", INT4, setting(version="gemv"), "layout `gemv`"),
    ("awq", INT4, setting(bits=3), "3 bits"),
    ("bitsandbytes", NF4, drop(STATE), "has 0 quant_state tensors"),
    ("bitsandbytes", NF4, drop(f"{WEIGHT}.quant_map"), "lacks"),
    ("bitsandbytes", NF4, state_with(shape=[2**40, 2**40]), r"is U8 \[\d+, 1\], expected U8"),
    ("bitsandbytes", NF4, state_with(shape=[-1, 4]), "expected two counts"),
    ("bitsandbytes", NF4, state_with(blocksize=0), "blocksize 0, expected"),
    ("bitsandbytes", NF4, state_with(dtype="object"), "dtype object"),
    ("bitsandbytes", NF4, state_with(quant_type="fp4"), "quant_type fp4, expected nf4"),
    ("bitsandbytes", NF4, state_with(nested_offset="1"), "nested_offset 1"),
    ("bitsandbytes", NF4, change(STATE, lambda t: t[:20]), "is no JSON"),
    ("bitsandbytes", NF4, change(f"{WEIGHT}.absmax", lambda t: t[:-1]), "expected U8"),
    ("bitsandbytes", NF4, setting(load_in_4bit=False, _load_in_4bit=False), "names neither or both"),
    ("bitsandbytes", Int8RowScheme(), change(f"{UP}.SCB", lambda t: t[:-1]), "expected F32"),
    ("bitsandbytes", Int8RowScheme(), change(f"{UP}.weight_format", lambda t: t + 1), "expected 0"),
]


@pytest.mark.parametrize(("format", "scheme", "damage", "message"), DAMAGES)
def test_damage_is_one_line(
    checkpoint: Path, tmp_path: Path, format: str, scheme: QuantScheme, damage: Damage, message: str
) -> None:
    folder = tmp_path / "out"
    build_folder(checkpoint, folder, format, scheme)
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    damage(tensors, config["quantization_config"])
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(BitwrightError, match=message) as caught:
        open_source(folder).load(f"{UP}.weight")
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("format", "scheme", "message"),
    [
        ("gptq", int_scheme(5, 32), "GPTQ files cannot hold W5A16"),
        ("gptq", int_scheme(4, 32, scale="bf16"), "scales in GPTQ files are F16"),
        ("gptq", CodebookScheme(codebook="nf4"), "cannot hold NF4"),
        ("awq", int_scheme(4, 32), "AWQ files cannot hold W4A16 g32 sym"),
        ("awq", int_scheme(8, 32, symmetric=False), "AWQ files cannot hold"),
        ("awq", int_scheme(4, None, symmetric=False), "one group size"),
        ("bitsandbytes", int_scheme(4, 32), "one of NF4, FP4 and LLM.int8"),
    ],
)
def test_writers_refuse_what_their_format_cannot_hold(
    checkpoint: Path, format: str, scheme: QuantScheme, message: str
) -> None:
    plan = plan_folder(checkpoint, format, scheme, sized=False)
    with pytest.raises(UnsupportedError, match=message):
        WRITERS[format](plan, checkpoint)


def test_odd_sizes_that_do_not_fill_words(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", layers=1, **(SMALL | {"intermediate": 131}))
    with pytest.raises(UnsupportedError, match="131 outputs, which do not fill"):
        build_folder(folder, tmp_path / "out", "gptq", int_scheme(4, None))
    with pytest.raises(UnsupportedError, match="outputs by 8"):
        build_folder(folder, tmp_path / "out", "awq", int_scheme(4, 32, symmetric=False))
    _, values = build_folder(folder, tmp_path / "nf4", "bitsandbytes", CodebookScheme(codebook="nf4"))
    source = open_source(tmp_path / "nf4")
    for module in (UP, "model.layers.0.mlp.down_proj"):
        expected = values[f"{module}.weight"].decode()
        np.testing.assert_array_equal(source.load(f"{module}.weight").numpy(), expected)


def test_shards_and_equal_bytes(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_folder(checkpoint, tmp_path / name, "awq", int_scheme(4, 32, symmetric=False), max_shard_bytes=40_000)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len([name for name in files if name.endswith(".safetensors")]) > 1
    assert all((tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes() for name in files)
    whole = tmp_path / "whole"
    _, values = build_folder(checkpoint, whole, "awq", int_scheme(4, 32, symmetric=False))
    loaded = open_source(tmp_path / "a").load(f"{UP}.weight")
    np.testing.assert_array_equal(loaded.numpy(), values[f"{UP}.weight"].decode())
    shutil.rmtree(whole)
