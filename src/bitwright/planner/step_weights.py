"""Which bytes and products a step of a model takes: its stored matrices, put together by how they are run.

An embedding that is no head is looked up, not multiplied. Experts are told apart from what every token passes: of the
stored ones a step reads those that its tokens are sent to, a token is multiplied by a few.

Not here: how long that takes (roofline.py, processor_time.py).
"""

from __future__ import annotations

import dataclasses
import math

from bitwright.core.schemes import WeightScheme
from bitwright.facts.families import EMBEDDING, HEAD, expert_of
from bitwright.planner.deployment import Deployment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Matrices:
    """Stored matrices of one scheme and one part of the model. `bytes`, `weights` and `rows` are of all of them."""

    scheme: WeightScheme
    bytes: int
    weights: int
    rows: int  # of a head: the vocabulary
    head: bool = False  # multiplied for the last token of a prompt only
    experts: int = 0  # among which they are shared out, 0: every token passes them
    per_token: int = 0

    def share_read(self, tokens: int) -> float:
        """Expected part of the bytes that a step of `tokens` reads: experts are taken to be chosen evenly."""
        return 1 - (1 - self.per_token / self.experts) ** tokens if self.experts else 1.0

    @property
    def share_multiplied(self) -> float:
        """Part of the weights that a token is multiplied by."""
        return self.per_token / self.experts if self.experts else 1.0


def matrices_of(deployment: Deployment) -> tuple[Matrices, ...]:
    """The matrices of the decoder on one replica. Vision towers are left out: they run once an image."""
    facts = deployment.facts
    beside = set() if facts.vision is None else {t.name for t in (*facts.vision.tower, *facts.vision.projector)}
    sums: dict[tuple[WeightScheme, bool, bool], list[int]] = {}
    for entry in deployment.tensors:
        if entry.name in beside or (entry.name == EMBEDDING and not facts.tied):
            continue
        head = entry.name in (HEAD, EMBEDDING)
        key = (entry.scheme, head, expert_of(entry.name) is not None)
        total = sums.setdefault(key, [0, 0, 0])
        total[0] += entry.bytes
        total[1] += math.prod(entry.shape)
        total[2] += math.prod(entry.shape[:-1])
    experts = facts.experts
    return tuple(
        Matrices(
            scheme=scheme,
            bytes=size,
            weights=weights,
            rows=rows,
            head=head,
            experts=experts.count if routed and experts is not None else 0,
            per_token=experts.per_token if routed and experts is not None else 0,
        )
        for (scheme, head, routed), (size, weights, rows) in sums.items()
    )
