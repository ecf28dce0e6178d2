"""How far two next-token distributions lie apart, token by token.

Given logits a (reference) and b (artifact), with p = softmax(a):

    KL(p ‖ q) = E_p[a - b] - lse(a) + lse(b)      in nats
    NLL       = lse(logits) - logits[next token]

The difference a - b is taken before anything else, so equal logits give exactly zero and close logits lose no digits to
a difference of two large logarithms. Elements stay float32, in which they were computed; per-token figures are float64.
Logits that are not finite make a token's figures not finite; `Measures.finite` says so.

Dimension key: N tokens, V vocabulary. Not here: which tokens (score.py), averages and intervals (stats.py).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Figures of N tokens (any leading shape). `top_*` are the most probable token ids."""

    kl: Floats
    nll_reference: Floats
    nll_artifact: Floats
    top_reference: Integers
    top_artifact: Integers

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Where the artifact gave numbers."""
        return np.isfinite(self.kl) & np.isfinite(self.nll_artifact)


def compare(reference_NV: torch.Tensor, artifact_NV: torch.Tensor, next_N: torch.Tensor) -> Measures:
    """Measure float32 logits [N, V] against each other and against the true next tokens int64 [N]."""
    lse_reference, weights_NV, mass_N = _exponentials(reference_NV)
    gap_NV = weights_NV.mul_(reference_NV - artifact_NV)
    expected_gap = gap_NV.sum(dim=-1).double() / mass_N
    lse_artifact, _, _ = _exponentials(artifact_NV)
    kl = expected_gap - lse_reference + lse_artifact
    target_N1 = next_N[:, None]
    return Measures(
        kl=kl.clamp(min=0).numpy(),
        nll_reference=(lse_reference - reference_NV.gather(1, target_N1)[:, 0]).numpy(),
        nll_artifact=(lse_artifact - artifact_NV.gather(1, target_N1)[:, 0]).numpy(),
        top_reference=reference_NV.argmax(dim=-1).numpy(),
        top_artifact=artifact_NV.argmax(dim=-1).numpy(),
    )


def _exponentials(logits_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """lse float64 [N], exp(logits - largest) float32 [N, V] and its row sums float64 [N].

    Why not torch.logsumexp: it returns float32, and at 20 nats that alone is an error of 1e-6.
    """
    largest_N1 = logits_NV.amax(dim=-1, keepdim=True)
    weights_NV = (logits_NV - largest_N1).exp_()
    mass_N = weights_NV.sum(dim=-1).double()
    return largest_N1[:, 0].double() + mass_N.log(), weights_NV, mass_N


def compare_plainly(reference_NV: Floats, artifact_NV: Floats, next_N: Integers) -> Measures:
    """The definitions in float64, written down as in a textbook. `compare` is tested against it."""
    log_p = _log_softmax(reference_NV)
    log_q = _log_softmax(artifact_NV)
    rows = np.arange(len(next_N))
    return Measures(
        kl=np.sum(np.exp(log_p) * (log_p - log_q), axis=-1),
        nll_reference=-log_p[rows, next_N],
        nll_artifact=-log_q[rows, next_N],
        top_reference=np.argmax(reference_NV, axis=-1),
        top_artifact=np.argmax(artifact_NV, axis=-1),
    )


def _log_softmax(logits_NV: Floats) -> Floats:
    shifted = logits_NV - logits_NV.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
