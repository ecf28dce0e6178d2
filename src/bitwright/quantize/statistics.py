"""What is known of the inputs of a linear, made ready for a method: the coin that calibration pays solving in.

Not here: sums over tokens (calibration/statistics.py), what is done with them (solve.py).
Dimension key: I inputs
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.plan import Method
from bitwright.quantize.gptq import Feedback, factorize
from bitwright.tensors.devices import CPU
from bitwright.tensors.qtensor import Float32

# Correlations of inputs are divided by 1 + SHRINKAGE: those of a few thousand tokens hold less on other text. There KL
# falls by 2 % (source code) and 14 % (chat), on the calibration's own kind it rises by 1 % (docs/log.md)
SHRINKAGE = 0.3


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What is known of one input, shared by all its readers: the mean square of every channel, and for GPTQ the whole
    Gram matrix G and the factor that it needs.

    `damped_II` is what GPTQ sees: G with correlations shrunk, plus a share of its mean diagonal. It takes the place of
    `gram_II`, which follows from it: at 14336 inputs each takes 0.8 GiB. `peak` is the largest
    magnitude that was seen, for types that store a scale of their inputs.
    """

    diagonal_I: Float32
    gram_II: Float32 | None = None
    damped_II: Float32 | None = None
    feedback: Feedback | None = None
    peak: float | None = None
    device: torch.device = CPU  # that error feedback runs on

    @staticmethod
    def of(
        gram_II: Float32,
        method: Method,
        *,
        peak: float | None = None,
        act_order: bool = True,
        device: torch.device = CPU,
    ) -> Statistics:
        """Prepare a copy of a Gram matrix for `method`; without `act_order` GPTQ takes columns as they come."""
        return Statistics.taking(gram_II.copy(), method, peak=peak, act_order=act_order, device=device)

    @staticmethod
    def taking(
        gram_II: Float32,
        method: Method,
        *,
        peak: float | None = None,
        act_order: bool = True,
        device: torch.device = CPU,
    ) -> Statistics:
        """Prepare a Gram matrix for `method`, in place: the caller's array is used up."""
        diagonal_I = np.ascontiguousarray(np.diag(gram_II))
        if method != "gptq":
            return Statistics(diagonal_I=diagonal_I, gram_II=gram_II, peak=peak)
        damped_II, places = gram_II, np.diag_indices_from(gram_II)
        damped_II /= np.float32(1 + SHRINKAGE)
        damped_II[places] = diagonal_I
        feedback = factorize(damped_II, act_order=act_order, dtype=np.float32, device=device)
        if feedback is not None:
            damped_II[places] += np.float32(feedback.damping) * diagonal_I.mean()
        return Statistics(diagonal_I=diagonal_I, damped_II=damped_II, feedback=feedback, peak=peak, device=device)

    def in_order(self, order_I: NDArray[np.int64]) -> Statistics:
        """Of the same inputs in another order, which must be that of the factor."""
        square = np.ix_(order_I, order_I)
        feedback = self.feedback
        if feedback is not None:
            assert np.array_equal(feedback.order_I, order_I), "the factor has an order of its own"
            feedback = dataclasses.replace(feedback, order_I=np.arange(len(order_I)))
        return Statistics(
            diagonal_I=self.diagonal_I[order_I],
            gram_II=None if self.gram_II is None else self.gram_II[square],
            damped_II=None if self.damped_II is None else self.damped_II[square],
            feedback=feedback,
            peak=self.peak,
            device=self.device,
        )
