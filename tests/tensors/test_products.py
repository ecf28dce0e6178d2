"""The faster products against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.tensors.products import PANEL, add_gram, has_onednn, linear


@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 70), st.booleans(), st.integers(0, 2**31))
def test_linear_equals_float64(rows: int, columns: int, outputs: int, biased: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, rows, columns, generator=generator)
    weight = torch.randn(outputs, columns, generator=generator)
    bias = torch.randn(outputs, generator=generator) if biased else None
    expected = torch.nn.functional.linear(inputs.double(), weight.double(), bias.double() if biased else None)
    torch.testing.assert_close(linear(inputs, weight, bias), expected.float(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("columns", [5, PANEL, PANEL + 1, 2 * PANEL + 100])
def test_gram_equals_float64_on_and_above_the_diagonal(columns: int) -> None:
    rows = torch.randn(64, columns, generator=torch.Generator().manual_seed(1))
    upper = torch.ones(columns, columns)
    add_gram(upper, rows)
    expected = 1 + rows.double().T @ rows.double()
    torch.testing.assert_close(upper.triu(), expected.float().triu(), rtol=1e-5, atol=1e-4)


def test_a_build_without_the_operator_takes_the_ordinary_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not has_onednn()
    inputs, weight = torch.randn(3, 8), torch.randn(4, 8)
    assert torch.equal(linear(inputs, weight), torch.nn.functional.linear(inputs, weight))
