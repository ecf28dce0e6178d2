"""Minifloats: every code against torch, rounding against torch's casts and the plain search."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compressed_tensors.compressors.nvfp4.helpers import kE2M1ToFloat
from compressed_tensors.quantization.quant_args import FP4_E2M1_DATA
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.schemes import ActivationScheme, MinifloatScheme
from bitwright.tensors.minifloat_values import (
    MINIFLOATS,
    decode_e8m0,
    decode_minifloat,
    encode_e8m0,
    encode_minifloat,
    nearest_by_search,
)
from bitwright.tensors.qtensor import QTensor

TORCH = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}
ALL_CODES = np.arange(256, dtype=np.uint8)


def hard_values(element: str, seed: int) -> np.ndarray:
    """Levels, midpoints, their neighbours, and values of every size, of both signs."""
    kind = MINIFLOATS[element]
    levels = decode_minifloat(np.arange(kind.largest_code + 1, dtype=np.uint8), element)
    middles = (levels[1:] + levels[:-1]) / 2
    rng = np.random.default_rng(seed)
    spread = np.exp(rng.uniform(-14, 14, 500)).astype(np.float32)
    plain = np.concatenate([levels, middles, spread, np.array([0, np.inf, 1e30, 1e-40], dtype=np.float32)])
    near = np.concatenate([plain, np.nextafter(plain, np.inf), np.nextafter(plain, 0)]).astype(np.float32)
    return np.concatenate([near, -near])


@pytest.mark.parametrize("element", sorted(TORCH))
def test_values_of_all_codes_are_torch_s(element: str) -> None:
    theirs = torch.from_numpy(ALL_CODES).view(TORCH[element]).float().numpy()
    theirs[np.isinf(theirs)] = np.nan  # no code of ours reaches the infinities of E5M2
    np.testing.assert_array_equal(decode_minifloat(ALL_CODES, element), theirs)


@pytest.mark.parametrize("element", sorted(TORCH))
@given(seed=st.integers(0, 2**32 - 1))
def test_codes_are_those_of_torch_s_saturating_cast(element: str, seed: int) -> None:
    values = hard_values(element, seed)
    limit = MINIFLOATS[element].largest
    theirs = torch.from_numpy(values).clamp(-limit, limit).to(TORCH[element]).view(torch.uint8).numpy()
    np.testing.assert_array_equal(encode_minifloat(values, element), theirs)


@pytest.mark.parametrize("element", sorted(MINIFLOATS))
@given(seed=st.integers(0, 2**32 - 1))
def test_the_fast_rounding_is_the_plain_search(element: str, seed: int) -> None:
    values = hard_values(element, seed)
    np.testing.assert_array_equal(encode_minifloat(values, element), nearest_by_search(values, element))


@given(seed=st.integers(0, 2**32 - 1))
def test_four_bits_round_as_compressed_tensors_does(seed: int) -> None:
    values = hard_values("e2m1", seed)
    theirs = FP4_E2M1_DATA.cast_to_fp4(torch.from_numpy(values).clamp(-6, 6)).numpy()
    np.testing.assert_array_equal(decode_minifloat(encode_minifloat(values, "e2m1"), "e2m1"), theirs)
    np.testing.assert_array_equal(decode_minifloat(np.arange(8), "e2m1"), kE2M1ToFloat.numpy())


@pytest.mark.parametrize("element", sorted(MINIFLOATS))
def test_decoding_is_undone_by_encoding(element: str) -> None:
    codes = np.arange(2 * MINIFLOATS[element].sign, dtype=np.uint8)
    codes = codes[~np.isnan(decode_minifloat(codes, element))]
    np.testing.assert_array_equal(encode_minifloat(decode_minifloat(codes, element), element), codes)


def test_not_a_number_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="NaN"):
        encode_minifloat(np.array([np.nan], dtype=np.float32), "e4m3")


def test_powers_of_two_are_torch_s() -> None:
    codes = np.arange(255, dtype=np.uint8)
    theirs = torch.from_numpy(codes).view(torch.float8_e8m0fnu).float().numpy()
    np.testing.assert_array_equal(decode_e8m0(codes), theirs)
    np.testing.assert_array_equal(encode_e8m0(decode_e8m0(codes)), codes)


@given(st.lists(st.floats(-120, 120), min_size=1), st.sampled_from([1.0, 1.25, 1.5, 1.75]))
def test_rounding_to_powers_of_two_is_nearest(exponents: list[float], factor: float) -> None:
    values = (2.0 ** np.array(exponents) * factor).astype(np.float32)
    decoded = decode_e8m0(encode_e8m0(values)).astype(np.float64)
    for other in (decoded * 2, decoded / 2):
        assert (np.abs(values - decoded) <= np.abs(values - other)).all()


def test_fields_of_the_whole_matrix_survive_another_order_of_rows() -> None:
    scheme = MinifloatScheme(
        element="e2m1", scaling="nv", activations=ActivationScheme(element="e2m1", scaling="nv", dynamic=False)
    )
    rng = np.random.default_rng(0)
    tensor = QTensor(
        scheme=scheme,
        codes=rng.integers(0, 16, (6, 32)).astype(np.uint8),
        fields={
            "scale_codes": rng.integers(0, 126, (6, 2)).astype(np.uint8),
            "global_scale": np.array([300], dtype=np.float32),
            "input_scale": np.array([7], dtype=np.float32),
        },
    )
    order = np.array([5, 0, 3, 1, 4, 2])
    moved = tensor.take_rows(order)
    np.testing.assert_array_equal(moved.decode(), tensor.decode()[order])
    assert moved.fields["input_scale"].tolist() == [7]
