"""Inputs rounded in NumPy are those that the forward pass rounds in torch, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.core.schemes import ActivationScheme, InputRounding
from bitwright.modeling.rounded_inputs import round_inputs
from bitwright.quantize.input_rounding import rounded_inputs

SCHEMES = [
    ActivationScheme(element="int8", scaling="token"),
    ActivationScheme(element="int8", scaling="tensor", dynamic=False),
    ActivationScheme(element="e4m3", scaling="token"),
    ActivationScheme(element="e4m3", scaling="tensor", dynamic=False),
    ActivationScheme(element="e4m3", scaling="group"),
    ActivationScheme(element="e4m3", scaling="mx"),
    ActivationScheme(element="e2m1", scaling="mx"),
    ActivationScheme(element="e2m1", scaling="nv", dynamic=False),
]


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: f"{scheme.element}-{scheme.scaling}")
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 4), columns=st.sampled_from([128, 200, 256]))
def test_bits_are_those_of_the_forward_pass(scheme: ActivationScheme, seed: int, spread: float, columns: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((6, columns)) * np.exp(spread * rng.standard_normal((1, columns)))
    rows = rows.astype(np.float32)
    rows[2], rows[4, 32:64] = 0, 0
    largest = float(np.abs(rows).max()) / 1.5  # too small on purpose: the largest values saturate
    scale = {"tensor": largest / 100, "nv": 448 * 6 / largest}.get(scheme.scaling)
    expected = round_inputs(torch.from_numpy(rows), InputRounding(scheme=scheme, scale=scale)).numpy()
    found = rounded_inputs(rows, scheme, scale)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32
    assert (found != rows).any()
