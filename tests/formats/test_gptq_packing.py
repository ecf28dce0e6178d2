"""GPTQ's and AWQ's words: laws, and equality with packers that are not ours or are written from the description."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from compressed_tensors.entrypoints.convert.converters.autoawq import AutoAWQConverter
from hypothesis import given
from hypothesis import strategies as st

from bitwright.formats.packed import awq_packing, gptq_packing

BITS = [2, 3, 4, 8]
seeds = st.integers(0, 2**32 - 1)


def draw_values(bits: int, rows: int, columns: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns)).astype(np.uint8)


def pack_by_the_book(values: np.ndarray, bits: int) -> np.ndarray:
    """Words of one row, value by value; 3 bits with AutoGPTQ's two split values, spelled out."""
    words = [0] * (len(values) * bits // 32)
    if bits != 3:
        for i, value in enumerate(values.tolist()):
            words[i * bits // 32] |= value << (i * bits % 32)
    else:
        for first in range(0, len(values), 32):
            part, at = values[first : first + 32].tolist(), first * 3 // 32
            for i in range(10):
                words[at] |= part[i] << (3 * i)
            words[at] |= (part[10] & 0b11) << 30
            words[at + 1] |= part[10] >> 2
            for i in range(11, 21):
                words[at + 1] |= part[i] << (3 * (i - 11) + 1)
            words[at + 1] |= (part[21] & 0b1) << 31
            words[at + 2] |= part[21] >> 1
            for i in range(22, 32):
                words[at + 2] |= part[i] << (3 * (i - 22) + 2)
    return np.array(words, dtype=np.uint32).view(np.int32)


@given(st.sampled_from(BITS), st.integers(1, 6), st.integers(1, 5), seeds)
def test_unpack_undoes_pack(bits: int, rows: int, runs: int, seed: int) -> None:
    values = draw_values(bits, rows, 32 * runs, seed)
    words = gptq_packing.pack(values, bits)
    assert words.shape == (rows, bits * runs)
    np.testing.assert_array_equal(gptq_packing.unpack(words, bits), values)


@given(st.sampled_from(BITS), st.integers(1, 6), st.integers(1, 4), seeds)
def test_pack_undoes_unpack(bits: int, rows: int, runs: int, seed: int) -> None:
    words = np.random.default_rng(seed).integers(-(2**31), 2**31, (rows, bits * runs)).astype(np.int32)
    np.testing.assert_array_equal(gptq_packing.pack(gptq_packing.unpack(words, bits), bits), words)


@given(st.sampled_from(BITS), st.integers(1, 4), seeds)
def test_words_are_those_of_the_description(bits: int, runs: int, seed: int) -> None:
    values = draw_values(bits, 1, 32 * runs, seed)
    np.testing.assert_array_equal(gptq_packing.pack(values, bits)[0], pack_by_the_book(values[0], bits))


@given(st.sampled_from(BITS), st.integers(1, 6), st.integers(1, 5), seeds)
def test_words_are_the_dense_ones_of_compressed_tensors(bits: int, rows: int, runs: int, seed: int) -> None:
    values = draw_values(bits, rows, 32 * runs, seed)
    theirs = pack_to_int32(torch.from_numpy((values.astype(np.int16) - (1 << (bits - 1))).astype(np.int8)), bits)
    np.testing.assert_array_equal(gptq_packing.pack(values, bits), theirs.numpy())


@given(st.integers(1, 6), st.integers(1, 9), seeds)
def test_awq_words_are_undone_by_the_library(rows: int, words: int, seed: int) -> None:
    values = draw_values(4, rows, 8 * words, seed)
    packed = awq_packing.pack(values)
    loose = AutoAWQConverter.unpack_awq(torch.from_numpy(packed), None, 4)
    theirs = AutoAWQConverter.reverse_awq_order(*loose, 4)[0] & 15
    np.testing.assert_array_equal(theirs.numpy(), values)
    np.testing.assert_array_equal(awq_packing.unpack(packed), values)


def test_awq_order_in_one_word() -> None:
    word = int(awq_packing.pack(np.arange(8, dtype=np.uint8)[None])[0, 0]) & 0xFFFFFFFF
    assert f"{word:08x}" == "75316420"


@pytest.mark.parametrize(("values", "bits"), [([[16] * 8], 4), ([[-1] * 8], 4), ([[0] * 7], 4)])
def test_what_does_not_fit_is_our_bug(values: list[list[int]], bits: int) -> None:
    with pytest.raises(AssertionError):
        gptq_packing.pack(np.array(values), bits)
