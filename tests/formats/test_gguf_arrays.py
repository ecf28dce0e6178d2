"""Arrays of a header read as a whole are those that the library reads one by one; damaged counts are refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitwright.core.errors import InputError
from bitwright.formats.ggml.arrays import ArrayReader
from bitwright.formats.ggml.summary import open_gguf

ARRAYS = st.one_of(
    st.lists(st.text(max_size=9), min_size=1, max_size=20),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20),
    st.lists(st.booleans(), min_size=1, max_size=20),
)


def write(path: Path, arrays: list[list[object]]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    for number, values in enumerate(arrays):
        writer.add_array(f"array.{number}", values)
    writer.add_string("text", "näch")
    writer.add_uint32("number", 7)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays=st.lists(ARRAYS, max_size=4))
def test_every_field_is_the_librarys(tmp_path: Path, arrays: list[list[object]]) -> None:
    path = write(tmp_path / "some.gguf", arrays)
    ours, plain = ArrayReader(path), gguf.GGUFReader(path)
    assert ours.data_offset == plain.data_offset
    assert list(ours.fields) == list(plain.fields)
    for key, field in plain.fields.items():
        assert ours.fields[key].contents() == field.contents()
        assert (ours.fields[key].types, ours.fields[key].offset) == (field.types, field.offset)


def test_a_string_is_no_array_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "vocabulary.gguf", [["a", "b", "c"]])
    field, plain = ArrayReader(path).fields["array.0"], gguf.GGUFReader(path).fields["array.0"]
    assert len(plain.parts) - len(field.parts) == 2 + 3, "the library has two counts, and a length for each string"


@pytest.mark.parametrize("values", [["one", "two"], [1, 2, 3]])
@pytest.mark.parametrize("count", [10**5, 2**63])
def test_an_array_longer_than_the_file_is_refused(tmp_path: Path, values: list[object], count: int) -> None:
    path = write(tmp_path / "damaged.gguf", [values])
    held, key = bytearray(path.read_bytes()), b"array.0"
    at = held.index(key) + len(key) + 4 + 4  # behind the type of the value and of its elements
    held[at : at + 8] = count.to_bytes(8, "little")
    path.write_bytes(held)
    with pytest.raises(InputError, match=r"damaged.gguf.* cut short or damaged"):
        open_gguf(path)
