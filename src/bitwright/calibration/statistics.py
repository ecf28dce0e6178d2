"""The store of statistics: for every distinct input of a group of linears, its Gram matrix and largest magnitudes.

q, k and v read one input, so they share one matrix, as do gate and up. The diagonal of the Gram matrix is what
llama.cpp calls the importance matrix. Sums are taken in float32 per batch, and batches are summed in float32.

Dimension key: N tokens · I inputs
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.samples import TokenSample
from bitwright.core.errors import InputError
from bitwright.tensors.products import PANEL, add_gram


class InputStatistics:
    """Running statistics of one input of width `columns`."""

    def __init__(self, columns: int, *, reduced: bool = False) -> None:
        self._reduced = reduced
        self._upper_II = torch.zeros(columns, columns)
        self.amax_I = torch.zeros(columns)  # largest magnitude of each input
        self.tokens = 0

    def add(self, inputs: torch.Tensor, weights_N: torch.Tensor | None = None) -> None:
        """Count [..., I] activations in, each token as often as its weight says (mean 1 over all tokens)."""
        rows_NI = inputs.reshape(-1, inputs.shape[-1])
        weighted_NI = rows_NI if weights_N is None else rows_NI * weights_N.sqrt()[:, None]
        add_gram(self._upper_II, weighted_NI, reduced=self._reduced)
        torch.maximum(self.amax_I, largest(rows_NI), out=self.amax_I)
        self.tokens += rows_NI.shape[0]

    def gram(self, where: str) -> NDArray[np.float32]:
        """Mean of x xᵀ over tokens, [I, I]. Raises `InputError` when an activation was not finite."""
        return _symmetric(self._upper_II.clone(), self.tokens, where)

    def take_gram(self, where: str) -> NDArray[np.float32]:
        """The same in the memory of the sums, which are gone then: at 14336 inputs a copy takes 0.8 GiB."""
        upper_II, self._upper_II = self._upper_II, torch.empty(0)
        return _symmetric(upper_II, self.tokens, where)

    @property
    def peak(self) -> float:
        """The largest magnitude of all inputs."""
        return float(self.amax_I.max())


class MeanSquare:
    """Running mean square of one input, channel by channel: the diagonal of its Gram matrix alone.

    With `sampled` some tokens are kept as they are (samples.py).
    """

    def __init__(self, *, sampled: bool = False) -> None:
        self.sample = TokenSample() if sampled else None
        self._sum_I: torch.Tensor | None = None
        self.amax_I: torch.Tensor | None = None  # largest magnitude of each input
        self.tokens = 0

    def add(self, inputs: torch.Tensor, weights_N: torch.Tensor | None = None) -> None:
        """Count [..., I] activations in, each token as often as its weight says (mean 1 over all tokens)."""
        rows_NI = inputs.reshape(-1, inputs.shape[-1]).float()
        amax_I = largest(rows_NI)
        self.amax_I = amax_I if self.amax_I is None else torch.maximum(self.amax_I, amax_I)
        if self.sample is not None:
            self.sample.add(rows_NI, weights_N)
        square_NI = rows_NI.square()
        if weights_N is not None:
            square_NI *= weights_N[:, None]
        sum_I = square_NI.sum(dim=0).double()  # a float64 sum over float32 rows takes four times as long
        self._sum_I = sum_I if self._sum_I is None else self._sum_I + sum_I
        self.tokens += square_NI.shape[0]

    def mean(self, where: str) -> NDArray[np.float32]:
        """float32 [I]. Raises `InputError` when an activation was not finite."""
        assert self._sum_I is not None, f"nothing entered {where}"
        mean_I = (self._sum_I / self.tokens).float()
        if not bool(torch.isfinite(mean_I).all()):
            raise _not_finite(where)
        result: NDArray[np.float32] = mean_I.numpy()
        return result


def largest(rows_NI: torch.Tensor) -> torch.Tensor:
    """Largest magnitude of every column, [I]. Two reductions: the norm of infinite order takes six times as long."""
    return torch.maximum(rows_NI.amax(dim=0), -rows_NI.amin(dim=0))


def _symmetric(upper_II: torch.Tensor, tokens: int, where: str) -> NDArray[np.float32]:
    """Divide by the tokens and mirror the upper triangle, in place."""
    for start in range(0, len(upper_II), PANEL):
        stop = min(start + PANEL, len(upper_II))
        panel = upper_II[start:stop, start:]
        panel /= max(tokens, 1)
        corner = torch.triu(panel[:, : stop - start])
        panel[:, : stop - start] = corner + torch.triu(corner, 1).T
        if not bool(torch.isfinite(panel).all()):
            raise _not_finite(where)
        upper_II[stop:, start:stop] = panel[:, stop - start :].T
    return upper_II.numpy()


def _not_finite(where: str) -> InputError:
    return InputError(
        f"activations that enter `{where}` are not finite",
        hint="the checkpoint may be damaged; run it in transformers first",
    )
