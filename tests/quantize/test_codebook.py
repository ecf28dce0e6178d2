"""Every stored number equals the one that bitsandbytes' CPU backend chooses, bit for bit."""

from __future__ import annotations

import bitsandbytes.functional as theirs
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.errors import InputError
from bitwright.core.schemes import CodebookScheme, Int8RowScheme
from bitwright.quantize.codebook import quantize_codebook, quantize_dynamic, quantize_int8_rows

SCHEMES = [CodebookScheme(codebook=book, double_quant=double) for book in ("nf4", "fp4") for double in (True, False)]


@st.composite
def weights(draw: st.DrawFn, *, even: bool = False) -> torch.Tensor:
    """Matrices of any shape and size of values, rows of zeros among them, in the types of checkpoints."""
    rows, columns = draw(st.integers(1, 90)), draw(st.integers(1, 200))
    if even and rows * columns % 2:
        columns += 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.standard_normal((rows, columns)) * 10.0 ** draw(st.integers(-5, 2))
    if draw(st.booleans()):
        values[rng.integers(0, rows)] = 0
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    return torch.from_numpy(values).to(dtype)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.label.replace(" ", "-"))
@given(weights())
def test_codes_and_maxima_are_theirs(scheme: CodebookScheme, weight: torch.Tensor) -> None:
    packed, state = theirs.quantize_4bit(weight, compress_statistics=scheme.double_quant, quant_type=scheme.codebook)
    ours = quantize_codebook(weight.float().numpy(), scheme)
    nibbles = torch.stack((packed >> 4, packed & 15), dim=-1).reshape(-1)[: weight.numel()]
    np.testing.assert_array_equal(ours.codes.reshape(-1), nibbles.numpy())
    if scheme.double_quant:
        np.testing.assert_array_equal(ours.fields["absmax_codes"], state.absmax.numpy())
        np.testing.assert_array_equal(ours.fields["nested_absmax"], state.state2.absmax.numpy())
        assert ours.fields["offset"].item() == state.offset.item()
    else:
        np.testing.assert_array_equal(ours.fields["absmax"], state.absmax.numpy())


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.label.replace(" ", "-"))
@given(weights(even=True))
def test_values_are_theirs(scheme: CodebookScheme, weight: torch.Tensor) -> None:
    packed, state = theirs.quantize_4bit(weight, compress_statistics=scheme.double_quant, quant_type=scheme.codebook)
    # in one row, because their kernel for AVX-512 takes the wrong maximum where inputs are a multiple of 16, not of 64
    state.dtype, state.shape = torch.float32, torch.Size((1, weight.numel()))
    expected = theirs.dequantize_4bit(packed, state).reshape(weight.shape)
    np.testing.assert_array_equal(quantize_codebook(weight.float().numpy(), scheme).decode(), expected.numpy())


@pytest.mark.parametrize("value", [0.0, 0.25, 1e-40])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.label.replace(" ", "-"))
def test_constant_matrices(scheme: CodebookScheme, value: float) -> None:
    weight = torch.full((5, 100), value)
    packed, state = theirs.quantize_4bit(weight, compress_statistics=scheme.double_quant, quant_type=scheme.codebook)
    ours = quantize_codebook(weight.numpy(), scheme)
    codes = ours.codes.reshape(-1)
    np.testing.assert_array_equal((codes[::2] << 4) | codes[1::2], packed.numpy().reshape(-1))
    state.dtype, state.shape = torch.float32, torch.Size((1, 500))
    np.testing.assert_array_equal(ours.decode().reshape(-1), theirs.dequantize_4bit(packed, state).reshape(-1).numpy())


@given(st.integers(0, 2**32 - 1), st.integers(1, 1500), st.integers(-6, 3))
def test_the_dynamic_map_is_searched_as_they_search_it(seed: int, count: int, magnitude: int) -> None:
    values = (np.random.default_rng(seed).standard_normal(count) * 10.0**magnitude).astype(np.float32)
    codes, absmax = quantize_dynamic(values)
    expected, state = theirs.quantize_blockwise(torch.from_numpy(values), blocksize=256)
    np.testing.assert_array_equal(codes, expected.numpy())
    np.testing.assert_array_equal(absmax, state.absmax.numpy())


@given(weights())
def test_int8_rows_are_theirs(weight: torch.Tensor) -> None:
    codes, absmax, _ = theirs.int8_vectorwise_quant(weight.to(torch.float16))
    ours = quantize_int8_rows(weight.float().numpy(), Int8RowScheme())
    np.testing.assert_array_equal(ours.fields["absmax"][:, 0], absmax.numpy())
    np.testing.assert_array_equal(ours.codes, codes.numpy())
    np.testing.assert_array_equal(ours.decode(), theirs.int8_vectorwise_dequant(codes, absmax).numpy())


def test_weights_beyond_16_bits_are_refused() -> None:
    with pytest.raises(InputError, match="70000 is beyond 65504"):
        quantize_int8_rows(np.array([[1, 7e4]], dtype=np.float32), Int8RowScheme())
