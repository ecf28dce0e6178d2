"""Long arrays packed at once: the bytes of the library, value by value."""

from typing import Any

import gguf
from hypothesis import given
from hypothesis import strategies as st

from bitwright.formats.ggml.keys import KeyWriter

ARRAY = gguf.GGUFValueType.ARRAY
lists = st.one_of(
    st.lists(st.text(), min_size=1), st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1),
    st.lists(st.floats(width=32, allow_nan=False), min_size=1), st.lists(st.booleans(), min_size=1),
    st.binary(min_size=1),
)  # fmt: skip


@given(lists, st.booleans())
def test_arrays_have_the_bytes_of_the_library(values: Any, typed: bool) -> None:
    ours, theirs = KeyWriter(None, "llama"), gguf.GGUFWriter(None, "llama")
    assert ours._pack_val(values, ARRAY, typed) == theirs._pack_val(values, ARRAY, typed)


def test_enumerations_and_given_types_too() -> None:
    ours, theirs = KeyWriter(None, "llama"), gguf.GGUFWriter(None, "llama")
    kinds = [gguf.TokenType.NORMAL, gguf.TokenType.CONTROL]
    assert ours._pack_val(kinds, ARRAY, True) == theirs._pack_val(kinds, ARRAY, True)
    wide = gguf.GGUFValueType.UINT64
    assert ours._pack_val([2**40], ARRAY, True, wide) == theirs._pack_val([2**40], ARRAY, True, wide)
