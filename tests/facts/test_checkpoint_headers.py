"""The header reader against safetensors itself, and against files that lie."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.errors import BitwrightError, InputError
from bitwright.facts.checkpoint import INDEX, SINGLE, read_checkpoint, read_config, read_headers
from checkpoints import safetensors_bytes, with_header, write_checkpoint

Damage = Callable[[Path], object]


@pytest.mark.parametrize("shards", [1, 3])
def test_headers_agree_with_the_safetensors_library(tmp_path: Path, shards: int) -> None:
    folder = write_checkpoint(tmp_path / "model", shards=shards)
    found = {tensor.name: (tensor.file, tensor.shape, tensor.dtype) for tensor in read_headers(folder)}
    expected = {}
    for path in folder.glob("*.safetensors"):
        with safetensors.safe_open(path, framework="np") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                expected[name] = (path.name, tuple(part.get_shape()), part.get_dtype())
    assert found == expected


def edit_header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Damage that rewrites the header of the single file and keeps its data."""

    def apply(folder: Path) -> None:
        path = folder / SINGLE
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])
        header = json.loads(raw[8 : 8 + length])
        change(header)
        path.write_bytes(with_header(header, raw[8 + length :]))

    return apply


def edit_index(change: Callable[[dict[str, str]], object]) -> Damage:
    def apply(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_text())
        change(index["weight_map"])
        (folder / INDEX).write_text(json.dumps(index))

    return apply


def rewrite(name: str, data: bytes | Callable[[bytes], bytes]) -> Damage:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_bytes(data if isinstance(data, bytes) else data(path.read_bytes()))

    return apply


def only_pickle(folder: Path) -> None:
    (folder / SINGLE).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04K\x01.")


def shift(header: dict[str, Any], by: int) -> None:
    name = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][0])
    header[name]["data_offsets"] = [offset + by for offset in header[name]["data_offsets"]]


NORM = "model.norm.weight"
SINGLE_FILE: dict[str, tuple[Damage, str]] = {
    "no config.json": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config cut short": (rewrite("config.json", b'{"model_type": '), "broken JSON"),
    "config a list": (rewrite("config.json", b"[1]"), "expected an object"),
    "config not text": (rewrite("config.json", b"\xff\xfe\x00"), "broken JSON"),
    "config nested without end": (rewrite("config.json", b"[" * 200_000), "broken JSON"),
    "no weights": (lambda f: (f / SINGLE).unlink(), "holds no weights"),
    "only pickle": (only_pickle, "pickle"),
    "only a shard": (lambda f: (f / SINGLE).rename(f / "model-00001-of-00002.safetensors"), "neither"),
    "empty file": (rewrite(SINGLE, b""), "too few"),
    "header longer than the file": (rewrite(SINGLE, struct.pack("<Q", 10**6) + b"{}"), "claims a header"),
    "header of 2^63 bytes": (rewrite(SINGLE, struct.pack("<Q", 2**63) + b"{}"), "claims a header"),
    "header no JSON": (rewrite(SINGLE, struct.pack("<Q", 4) + b"{{{{"), "broken JSON"),
    "data cut short": (rewrite(SINGLE, lambda raw: raw[:-1]), "truncated"),
    "data too long": (rewrite(SINGLE, lambda raw: raw + b"\0"), "belong to no tensor"),
    "hole": (edit_header(lambda h: shift(h, 2)), "truncated|hole"),
    "hole inside": (
        lambda f: (edit_header(lambda h: shift(h, 2))(f), rewrite(SINGLE, lambda raw: raw + b"00")(f)),
        "hole",
    ),
    "overlap": (edit_header(lambda h: shift(h, -2)), "overlaps"),
    "unknown dtype": (edit_header(lambda h: h[NORM].update(dtype="BF17")), "unknown dtype"),
    "dtype no text": (edit_header(lambda h: h[NORM].update(dtype=["BF16"])), "unknown dtype"),
    "negative shape": (edit_header(lambda h: h[NORM].update(shape=[-64])), "has shape"),
    "fractional shape": (edit_header(lambda h: h[NORM].update(shape=[64.0])), "has shape"),
    "shape of another size": (edit_header(lambda h: h[NORM].update(shape=[63])), "needs"),
    "one offset": (edit_header(lambda h: h[NORM].update(data_offsets=[0])), "data_offsets"),
    "entry no object": (edit_header(lambda h: h.update({NORM: 3})), "not an object"),
    "tensor twice": (
        rewrite(SINGLE, lambda raw: raw.replace(b'"model.layers.1.mlp.up', b'"model.layers.0.mlp.up')),
        "twice",
    ),
}
SHARDED: dict[str, tuple[Damage, str]] = {
    "shard absent": (lambda f: (f / "model-00002-of-00003.safetensors").unlink(), "absent"),
    "shard truncated": (rewrite("model-00002-of-00003.safetensors", lambda raw: raw[:-100]), "truncated"),
    "index broken": (rewrite(INDEX, b"{"), "broken JSON"),
    "index without map": (rewrite(INDEX, b"{}"), "no weight_map"),
    "index leads elsewhere": (edit_index(lambda m: m.update({NORM: "../model.safetensors"})), "expected a file name"),
    "index names a number": (edit_index(lambda m: m.update({NORM: 3})), "expected a file name"),
    "index names a tensor that is not there": (
        edit_index(lambda m: m.update({"model.extra": "model-00001-of-00003.safetensors"})),
        "lacks it",
    ),
    "index names the wrong shard": (
        edit_index(lambda m: m.update({NORM: "model-00001-of-00003.safetensors"})),
        "lacks it",
    ),
    "index forgets a tensor": (edit_index(lambda m: m.pop(NORM)), "does not name"),
    "tensor in two shards": (
        lambda f: (f / "model-00001-of-00003.safetensors").write_bytes(
            (f / "model-00002-of-00003.safetensors").read_bytes()
        ),
        "is in both",
    ),
}


def assert_refused(folder: Path, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_checkpoint(folder)
    assert "\n" not in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("case", SINGLE_FILE)
def test_damage_is_refused_in_one_line_with_a_hint(tmp_path: Path, case: str) -> None:
    folder = write_checkpoint(tmp_path / "model")
    damage, message = SINGLE_FILE[case]
    damage(folder)
    assert_refused(folder, message)


@pytest.mark.parametrize("case", SHARDED)
def test_damaged_shards_are_refused_in_one_line_with_a_hint(tmp_path: Path, case: str) -> None:
    folder = write_checkpoint(tmp_path / "model", shards=3)
    damage, message = SHARDED[case]
    damage(folder)
    assert_refused(folder, message)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_config(tmp_path / "absent")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="expected a folder"):
        read_config(tmp_path / "model.gguf")


def test_fingerprint_follows_config_headers_and_weights_but_not_place(tmp_path: Path) -> None:
    prints = [
        read_checkpoint(write_checkpoint(tmp_path / str(i), seed=seed, tied=tied, overrides=overrides)).fingerprint
        for i, (seed, tied, overrides) in enumerate(
            [(0, False, {}), (0, False, {}), (1, False, {}), (0, True, {}), (0, False, {"rms_norm_eps": 1e-6})]
        )
    ]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    folder = tmp_path / "0"
    rewrite(SINGLE, lambda raw: raw.replace(b'"BF16"', b'"I16" ', 1))(folder)
    assert read_checkpoint(folder).fingerprint != prints[0]


@settings(deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_noise_never_escapes_as_another_error(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, led: bool
) -> None:
    folder = tmp_path_factory.mktemp("noise", numbered=True)
    (folder / "config.json").write_text("{}")
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(noise)) + noise if led else noise)
    with pytest.raises(BitwrightError):
        read_checkpoint(folder)


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_one_changed_byte_of_a_header_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("byte", numbered=True)
    (folder / "config.json").write_text("{}")
    raw = bytearray(safetensors_bytes({"a": np.ones((2, 3), np.float32), "b": np.ones(4, np.float32)}))
    raw[place % len(raw)] = value
    (folder / SINGLE).write_bytes(bytes(raw))
    try:
        tensors = read_headers(folder)
    except InputError:
        return
    assert sum(tensor.bytes for tensor in tensors) == 20
