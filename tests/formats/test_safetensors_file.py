"""Planned files are files that the safetensors library reads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load

from bitwright.core.errors import InputError
from bitwright.formats.folders.ranges import StoredTensor
from bitwright.formats.folders.safetensors_file import TORCH_DTYPES, check_finite, plan_file

tensors = st.dictionaries(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=12).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(["F32", "BF16", "F16", "I64", "I32", "U8"]), st.lists(st.integers(0, 5), max_size=3)),
    max_size=6,
)


@given(tensors)
def test_the_library_reads_what_is_placed(spec: dict[str, tuple[str, list[int]]]) -> None:
    stored = [StoredTensor(name=name, dtype=dtype, shape=tuple(shape)) for name, (dtype, shape) in spec.items()]
    layout = plan_file("model.safetensors", stored, {"format": "pt"})
    assert layout == plan_file("model.safetensors", stored[::-1], {"format": "pt"})
    assert layout.data_start == len(layout.header)
    assert layout.data_start % 8 == 0
    data = bytearray(layout.header.ljust(layout.total_bytes, b"\0"))
    for number, region in enumerate(layout.regions.values(), start=1):
        data[region.offset : region.offset + region.bytes] = bytes([number]) * region.bytes
    loaded = load(bytes(data))
    assert set(loaded) == set(spec)
    for number, name in enumerate(layout.regions, start=1):
        dtype, shape = spec[name]
        assert loaded[name].dtype == TORCH_DTYPES[dtype]
        assert list(loaded[name].shape) == shape
        assert (loaded[name].view(-1).view(torch.uint8) == number).all()


def test_metadata_is_kept(tmp_path: Path) -> None:
    layout = plan_file("a", [StoredTensor(name="w", dtype="U8", shape=(3,))], {"format": "pt"})
    (tmp_path / "a").write_bytes(layout.header + bytes(3))
    with safe_open(tmp_path / "a", framework="pt") as reader:
        assert reader.metadata() == {"format": "pt"}


def test_the_first_place_counts_rows_of_the_whole_tensor(tmp_path: Path) -> None:
    values = torch.zeros(6, 4)
    values[4, 2] = float("nan")
    with pytest.raises(InputError, match=r"holds 1 of 24 values .*, the first at \[4, 2\]"):
        check_finite(values, "w", tmp_path)
    with pytest.raises(InputError, match=r"the first at \[4, 2\]"):
        check_finite(values[3:], "w", tmp_path, first_row=3)
