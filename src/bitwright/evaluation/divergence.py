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

TOP = 5
BLOCK = 128


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Measures:
    """Figures of N tokens (any leading shape). `top_*` are the most probable token ids, `confidence` the probability
    of the reference's, `top5_shared` the share of the reference's five that are among the artifact's five.
    """

    kl: Floats
    nll_reference: Floats
    nll_artifact: Floats
    top_reference: Integers
    top_artifact: Integers
    confidence: Floats
    top5_shared: Floats

    @property
    def finite(self) -> NDArray[np.bool_]:
        """Where the artifact gave numbers."""
        return np.isfinite(self.kl) & np.isfinite(self.nll_artifact)


def compare(reference_NV: torch.Tensor, artifact_NV: torch.Tensor, next_N: torch.Tensor) -> Measures:
    """Measure float32 logits [N, V] against each other and against the true next tokens int64 [N]."""
    lse_reference, weights_NV, mass_N = exponentials(reference_NV)
    gap_NV = weights_NV.mul_(reference_NV - artifact_NV)
    expected_gap = gap_NV.sum(dim=-1).double() / mass_N
    lse_artifact, _, _ = exponentials(artifact_NV)
    kl = expected_gap - lse_reference + lse_artifact
    target_N1 = next_N[:, None]
    top_reference, top_artifact = top_tokens(reference_NV), top_tokens(artifact_NV)
    largest = reference_NV.gather(1, top_reference[:, :1])[:, 0]
    return Measures(
        kl=kl.clamp(min=0).numpy(),
        nll_reference=(lse_reference - reference_NV.gather(1, target_N1)[:, 0]).numpy(),
        nll_artifact=(lse_artifact - artifact_NV.gather(1, target_N1)[:, 0]).numpy(),
        top_reference=top_reference[:, 0].numpy(),
        top_artifact=top_artifact[:, 0].numpy(),
        confidence=(largest - lse_reference).exp().numpy(),
        top5_shared=shared(top_reference, top_artifact),
    )


def top_tokens(logits_NV: torch.Tensor) -> torch.Tensor:
    """The ids of the most probable tokens [N, 5], best first; fewer where the vocabulary is smaller.

    A token of a block of `BLOCK` is among the best only where the block's largest logit is; so a pass for the largest
    of each block, which is as fast as memory, leaves a few blocks to sort.
    """
    rows, vocabulary = logits_NV.shape
    count = min(TOP, vocabulary)
    blocks = vocabulary // BLOCK
    if blocks <= count:
        plain: torch.Tensor = logits_NV.topk(count, dim=-1).indices
        return plain
    whole = blocks * BLOCK
    grid = logits_NV[:, :whole].view(rows, blocks, BLOCK)
    best = grid.amax(dim=-1).topk(count, dim=-1).indices
    places = (best[:, :, None] * BLOCK + torch.arange(BLOCK)).flatten(1)
    if whole < vocabulary:
        places = torch.cat([places, torch.arange(whole, vocabulary).expand(rows, -1)], dim=1)
    order = logits_NV.gather(1, places).topk(count, dim=-1).indices
    ids: torch.Tensor = places.gather(1, order)
    return ids


def shared(reference_NK: torch.Tensor, artifact_NK: torch.Tensor) -> Floats:
    """The share [N] of the ids in each row of one that the same row of the other holds too."""
    hits = (reference_NK[:, :, None] == artifact_NK[:, None]).any(dim=-1)
    result: Floats = hits.double().mean(dim=-1).numpy()
    return result


def exponentials(logits_NV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
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
    count = min(TOP, log_p.shape[-1])
    best_p, best_q = (np.argpartition(-values, count - 1, axis=-1)[:, :count] for values in (log_p, log_q))
    return Measures(
        kl=np.sum(np.exp(log_p) * (log_p - log_q), axis=-1),
        nll_reference=-log_p[rows, next_N],
        nll_artifact=-log_q[rows, next_N],
        top_reference=np.argmax(reference_NV, axis=-1),
        top_artifact=np.argmax(artifact_NV, axis=-1),
        confidence=np.exp(log_p.max(axis=-1)),
        top5_shared=np.array([np.isin(here, there).mean() for here, there in zip(best_p, best_q, strict=True)]),
    )


def _log_softmax(logits_NV: Floats) -> Floats:
    shifted = logits_NV - logits_NV.max(axis=-1, keepdims=True)
    result: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result
