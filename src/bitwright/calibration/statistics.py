"""The store of statistics: for every distinct input of a group of linears, its Gram matrix.

q, k and v read one input, so they share one matrix, as do gate and up. The diagonal of the Gram matrix is what
llama.cpp calls the importance matrix. Sums are taken in float32 per batch, and batches are summed in float32.

Dimension key: N tokens · I inputs
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.core.errors import InputError
from bitwright.tensors.products import add_gram


class InputStatistics:
    """Running statistics of one input of width `columns`."""

    def __init__(self, columns: int) -> None:
        self._upper_II = torch.zeros(columns, columns)
        self.tokens = 0

    def add(self, inputs: torch.Tensor) -> None:
        """Count [..., I] activations in."""
        rows_NI = inputs.reshape(-1, inputs.shape[-1]).float()
        add_gram(self._upper_II, rows_NI)
        self.tokens += rows_NI.shape[0]

    def gram(self, where: str) -> NDArray[np.float32]:
        """Mean of x xᵀ over tokens, [I, I]. Raises `InputError` when an activation was not finite."""
        upper_II = torch.triu(self._upper_II / max(self.tokens, 1))
        if not bool(torch.isfinite(upper_II).all()):
            raise InputError(
                f"activations that enter `{where}` are not finite",
                hint="the checkpoint may be damaged; run it in transformers first",
            )
        return (upper_II + torch.triu(upper_II, 1).T).numpy()
