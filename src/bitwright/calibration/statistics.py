"""The store of statistics: for every distinct input of a group of linears, its Gram matrix and largest magnitudes.

q, k and v read one input, so they share one matrix, as do gate and up. The diagonal of the Gram matrix is what
llama.cpp calls the importance matrix. Sums are taken in float32 per batch, and batches are summed in float32.

Each device that batches were run on has sums of its own. They are added on the CPU, in the order in which the devices
were first seen, so that the same deal of batches gives the same bytes.

Dimension key: N tokens · I inputs
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.samples import TokenSample
from bitwright.core.errors import InputError
from bitwright.tensors.devices import CPU, in_float64
from bitwright.tensors.products import PANEL, add_gram


class InputStatistics:
    """Running statistics of one input of width `columns`."""

    def __init__(self, columns: int, *, reduced: bool = False) -> None:
        self._columns, self._reduced = columns, reduced
        self._uppers: dict[torch.device, torch.Tensor] = {}
        self._amax: dict[torch.device, torch.Tensor] = {}
        self.tokens = 0

    def add(self, inputs: torch.Tensor, weights_N: torch.Tensor | None = None) -> None:
        """Count [..., I] activations in, each token as often as its weight says (mean 1 over all tokens)."""
        rows_NI = inputs.reshape(-1, inputs.shape[-1])
        weighted_NI = rows_NI if weights_N is None else rows_NI * weights_N.to(rows_NI.device).sqrt()[:, None]
        if rows_NI.device not in self._uppers:
            self._uppers[rows_NI.device] = torch.zeros(self._columns, self._columns, device=rows_NI.device)
            self._amax[rows_NI.device] = torch.zeros(self._columns, device=rows_NI.device)
        add_gram(self._uppers[rows_NI.device], weighted_NI, reduced=self._reduced)
        amax_I = self._amax[rows_NI.device]
        torch.maximum(amax_I, largest(rows_NI), out=amax_I)
        self.tokens += rows_NI.shape[0]

    def gram(self, where: str) -> NDArray[np.float32]:
        """Mean of x xᵀ over tokens, [I, I]. Raises `InputError` when an activation was not finite."""
        return _symmetric(self._gathered().clone(), self.tokens, where)

    def take_gram(self, where: str) -> NDArray[np.float32]:
        """The same in the memory of the sums, which are gone then: at 14336 inputs a copy takes 0.8 GiB."""
        upper_II, self._uppers = self._gathered(), {}
        return _symmetric(upper_II, self.tokens, where)

    @property
    def peak(self) -> float:
        """The largest magnitude of all inputs."""
        return max((float(amax_I.max()) for amax_I in self._amax.values()), default=0.0)

    def _gathered(self) -> torch.Tensor:
        """One sum, on the CPU."""
        first_II, *others = self._uppers.values() or (torch.zeros(self._columns, self._columns),)
        upper_II = first_II.cpu()
        for other_II in others:
            upper_II += other_II.cpu()
        self._uppers = {CPU: upper_II}
        return upper_II


class MeanSquare:
    """Running mean square of one input, channel by channel: the diagonal of its Gram matrix alone.

    With `sampled` some tokens are kept as they are (samples.py).
    """

    def __init__(self, *, sampled: bool = False) -> None:
        self.sample = TokenSample() if sampled else None
        self._sums: dict[torch.device, torch.Tensor] = {}
        self._amax: dict[torch.device, torch.Tensor] = {}
        self.tokens = 0

    def add(self, inputs: torch.Tensor, weights_N: torch.Tensor | None = None) -> None:
        """Count [..., I] activations in, each token as often as its weight says (mean 1 over all tokens)."""
        rows_NI = inputs.reshape(-1, inputs.shape[-1]).float()
        device, amax_I = rows_NI.device, largest(rows_NI)
        self._amax[device] = torch.maximum(self._amax[device], amax_I) if device in self._amax else amax_I
        if self.sample is not None:
            self.sample.add(rows_NI, weights_N)
        square_NI = rows_NI.square()
        if weights_N is not None:
            square_NI *= weights_N.to(device)[:, None]
        sum_I = in_float64(square_NI.sum(dim=0))  # a float64 sum over float32 rows takes four times as long
        self._sums[device] = self._sums[device] + sum_I if device in self._sums else sum_I
        self.tokens += square_NI.shape[0]

    def mean(self, where: str) -> NDArray[np.float32]:
        """float32 [I]. Raises `InputError` when an activation was not finite."""
        assert self._sums, f"nothing entered {where}"
        first_I, *others = (sum_I.cpu() for sum_I in self._sums.values())
        mean_I = (sum(others, first_I) / self.tokens).float()
        if not bool(torch.isfinite(mean_I).all()):
            raise _not_finite(where)
        result: NDArray[np.float32] = mean_I.numpy()
        return result

    def largest(self) -> torch.Tensor | None:
        """The largest magnitude of each input, [I], on the CPU; `None` before anything was seen."""
        if not self._amax:
            return None
        return torch.stack([amax_I.cpu() for amax_I in self._amax.values()]).amax(dim=0)


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
