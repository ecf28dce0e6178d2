"""Log-likelihoods of continuations behind their contexts, one block of the model in memory at a time.

What tasks with given answers need. Sequences are padded on the right, where causal attention never looks from within
them; equal inputs (one context, answers of one token) are run once.

Dimension key: S sequences of one batch · T positions · H hidden · N rows of logits · V vocabulary
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import nn

from bitwright.core.protocols import Progress

PASS_BYTES = 512 * 1024**2  # residual streams held between blocks; what does not fit takes another walk
BATCH_TOKENS = 2048  # through a block at once
CHUNK_BYTES = 48 * 1024**2  # of float32 logits


class Forward(Protocol):
    """What is asked of a model here; `modeling.walk.Walker` answers it."""

    layers: int

    def embed(self, tokens: torch.Tensor) -> torch.Tensor: ...
    def load_block(self, index: int) -> nn.Module: ...
    def forward(self, block: nn.Module, hidden_WTH: torch.Tensor) -> torch.Tensor: ...
    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """`answer` behind `context`, as token ids, neither of them empty."""

    context: tuple[int, ...]
    answer: tuple[int, ...]

    def inputs(self, most: int) -> tuple[int, ...]:
        """All but the last token, of which only the last `most` where the model attends to no more."""
        return (*self.context, *self.answer)[-(most + 1) :][:-1]


def log_likelihoods(
    model: Forward, requests: Sequence[Continuation], *, most: int, progress: Progress
) -> list[tuple[float, bool]]:
    """For each request the log-likelihood of its answer in nats, and whether greedy decoding would write it.

    `most` is the longest sequence in tokens that the model attends to.
    """
    by_inputs: dict[tuple[int, ...], list[int]] = {}
    for index, request in enumerate(requests):
        by_inputs.setdefault(request.inputs(most), []).append(index)
    found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
    for part in _passes(sorted(by_inputs, key=len), hidden_bytes=_hidden_bytes(model)):
        for inputs, hidden_TH in zip(part, walk(model, part, progress), strict=True):
            for index in by_inputs[inputs]:
                found[index] = _score(model, hidden_TH, requests[index].answer[-len(inputs) :])
    return found


def _hidden_bytes(model: Forward) -> int:
    return 4 * model.embed(torch.zeros((1, 1), dtype=torch.int64)).shape[-1]


def _passes(sequences: list[tuple[int, ...]], *, hidden_bytes: int) -> Iterator[list[tuple[int, ...]]]:
    """Sequences that are walked together."""
    part: list[tuple[int, ...]] = []
    room = PASS_BYTES // hidden_bytes
    for inputs in sequences:
        if part and room < len(inputs):
            yield part
            part, room = [], PASS_BYTES // hidden_bytes
        part.append(inputs)
        room -= len(inputs)
    if part:
        yield part


def _batches(sequences: list[tuple[int, ...]]) -> list[torch.Tensor]:
    """Sequences in the order given, padded to the longest of each batch: int64 [S, T]."""
    batches: list[list[tuple[int, ...]]] = []
    for inputs in sequences:
        if not batches or len(inputs) * (len(batches[-1]) + 1) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(inputs)
    return [
        nn.utils.rnn.pad_sequence([torch.tensor(inputs) for inputs in batch], batch_first=True) for batch in batches
    ]


def walk(model: Forward, sequences: list[tuple[int, ...]], progress: Progress) -> list[torch.Tensor]:
    """Residual streams [T, H] of all sequences after the last block, padding cut off. Sequences of like length stand
    together, so that little is padded."""
    streams = [model.embed(tokens_ST) for tokens_ST in _batches(sequences)]
    progress.start("answering", model.layers, "blocks")
    try:
        for layer in range(model.layers):
            block = model.load_block(layer)
            streams = [model.forward(block, hidden_STH) for hidden_STH in streams]
            progress.advance()
    finally:
        progress.stop()
    rows = itertools.chain.from_iterable(streams)
    return [hidden_TH[: len(inputs)] for inputs, hidden_TH in zip(sequences, rows, strict=True)]


def _score(model: Forward, hidden_TH: torch.Tensor, answer: Sequence[int]) -> tuple[float, bool]:
    """Log-likelihood of the last `len(answer)` predictions, and whether each is the most probable one."""
    rows_NH, total, greedy = hidden_TH[-len(answer) :], 0.0, True
    chunk = max(1, CHUNK_BYTES // (4 * model.logits(rows_NH[:1]).shape[-1]))
    for start in range(0, len(answer), chunk):
        logits_NV = model.logits(rows_NH[start : start + chunk])
        targets_N1 = torch.tensor(answer[start : start + chunk])[:, None]
        total += float(logits_NV.log_softmax(-1).gather(1, targets_N1).double().sum())
        greedy = greedy and bool((logits_NV.argmax(-1) == targets_N1[:, 0]).all())
    return total, greedy
