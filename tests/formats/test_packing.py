"""Packing: laws, and equality with the library that reads the files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.nvfp4.helpers import pack_fp4_to_uint8
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given
from hypothesis import strategies as st

from bitwright.formats.packing import (
    pack_nibbles,
    pack_rows,
    padded_words_for,
    unpack_padded_rows,
    unpack_rows,
    words_for,
)
from bitwright.tensors.minifloat_values import decode_minifloat

matrices = st.tuples(st.sampled_from(range(2, 9)), st.integers(1, 9), st.integers(1, 70), st.integers(0, 2**32 - 1))


def draw_codes(bits: int, rows: int, columns: int, seed: int) -> np.ndarray:
    half = 1 << (bits - 1)
    return np.random.default_rng(seed).integers(-half, half, (rows, columns)).astype(np.int8)


@given(matrices)
def test_unpack_undoes_pack(case: tuple[int, int, int, int]) -> None:
    bits, rows, columns, seed = case
    codes = draw_codes(bits, rows, columns, seed)
    words = pack_rows(codes, bits)
    assert words.shape == (rows, words_for(columns, bits))
    np.testing.assert_array_equal(unpack_rows(words, bits, columns), codes)


@given(st.sampled_from(range(2, 9)), st.integers(1, 5), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_pack_undoes_unpack(bits: int, rows: int, words_per_row: int, seed: int) -> None:
    words = np.random.default_rng(seed).integers(-(2**31), 2**31, (rows, words_per_row * bits)).astype(np.int32)
    np.testing.assert_array_equal(pack_rows(unpack_rows(words, bits, words_per_row * 32), bits), words)


@given(matrices)
def test_rows_are_the_library_s_words(case: tuple[int, int, int, int]) -> None:
    bits, rows, columns, seed = case
    codes = draw_codes(bits, rows, columns, seed)
    theirs = pack_to_int32(torch.from_numpy(codes), bits)
    np.testing.assert_array_equal(pack_rows(codes, bits), theirs.numpy())
    back = unpack_from_int32(torch.from_numpy(pack_rows(codes, bits)), bits, torch.Size(codes.shape))
    np.testing.assert_array_equal(back.numpy(), codes)


@given(matrices)
def test_transposed_words_are_the_library_s_zero_points(case: tuple[int, int, int, int]) -> None:
    bits, rows, columns, seed = case
    codes = draw_codes(bits, rows, columns, seed)
    theirs = pack_to_int32(torch.from_numpy(codes), bits, packed_dim=0)
    np.testing.assert_array_equal(pack_rows(codes.T, bits).T, theirs.numpy())


def test_a_code_out_of_range_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="4 bits"):
        pack_rows(np.array([[8]], dtype=np.int8), 4)


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    assert pack_rows(np.array([[-7, -8, -8, -8, -8, -8, -8, -8, 7]], dtype=np.int8), 4).tolist() == [[1, 15]]


@given(matrices)
def test_the_older_layout_is_read(case: tuple[int, int, int, int]) -> None:
    bits, rows, columns, seed = case
    codes = draw_codes(bits, rows, columns, seed)
    per_word = 32 // bits
    words = np.zeros((rows, padded_words_for(columns, bits)), dtype=np.uint32)
    for column in range(columns):  # word by word, as the format says
        stored = (codes[:, column].astype(np.int64) + 2 ** (bits - 1)).astype(np.uint32)
        words[:, column // per_word] |= stored << np.uint32(bits * (column % per_word))
    np.testing.assert_array_equal(unpack_padded_rows(words.view(np.int32), bits, columns), codes)
    assert (bits in (2, 4, 8)) <= (words_for(columns, bits) == padded_words_for(columns, bits))


@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_nibbles_are_the_library_s(rows: int, pairs: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 16, (rows, 2 * pairs)).astype(np.uint8)
    values = torch.from_numpy(decode_minifloat(codes, "e2m1"))
    np.testing.assert_array_equal(pack_nibbles(codes), pack_fp4_to_uint8(values).numpy())
