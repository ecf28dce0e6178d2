"""Samples of tokens: the same for every cut into batches, even, and without favourite positions."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.calibration.samples import TokenSample
from bitwright.calibration.statistics import MeanSquare


def sampled(tokens: int, batch: int, size: int = 64) -> torch.Tensor:
    """Numbers of the tokens that are kept."""
    sample = TokenSample(size)
    for part in torch.split(torch.arange(tokens).float()[:, None], batch):
        sample.add(part, part[:, 0] + 1)
    rows, weights = sample.tokens()
    assert torch.equal(weights, rows[:, 0] + 1)
    return rows[:, 0].long()


@given(st.integers(1, 3000), st.integers(1, 700))
def test_batches_do_not_matter(tokens: int, batch: int) -> None:
    found = sampled(tokens, batch)
    assert len(found.unique()) == len(found) == min(tokens, 64)
    assert torch.equal(found, sampled(tokens, tokens))


@given(st.integers(64, 20_000))
def test_gaps_are_even(tokens: int) -> None:
    edges = np.sort(np.concatenate(([-1], sampled(tokens, 4096).numpy(), [tokens])))
    assert np.diff(edges).max() <= 3.3 * tokens / 64 + 1


def test_no_place_in_a_window_is_favoured() -> None:
    windows, length = 64, 512
    places = sampled(windows * length, 4096, size=256).numpy() % length
    assert np.bincount(places // 64, minlength=8).min() >= 24  # of 32 in every eighth of a window
    assert (places == 0).sum() <= 2


def test_a_mean_square_keeps_rows_when_told_to() -> None:
    rows = torch.randn(3, 40, 8, generator=torch.Generator().manual_seed(0))
    plain, keeping = MeanSquare(), MeanSquare(sampled=True)
    for part in rows:
        plain.add(part)
        keeping.add(part)
    assert plain.sample is None
    assert keeping.sample is not None
    kept, _ = keeping.sample.tokens()
    assert np.array_equal(np.unique(kept.numpy(), axis=0), np.unique(rows.reshape(-1, 8).numpy(), axis=0))
    assert np.array_equal(plain.mean("a"), keeping.mean("a"))
