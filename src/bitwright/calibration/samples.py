"""A small sample of the tokens of a stream, the same however the stream is cut into batches.

Token n has the key (n + 1) · φ modulo 2^32, with φ = 2^32 / golden ratio, odd; the tokens with the smallest keys are
kept. Multiples of the golden ratio lie evenly (three-gap theorem), so the kept tokens do so too, however long the
stream turns out to be, and they favour no position in a window, which a stride of a power of two would: the first
token of a window often is the loudest (Sun et al. 2024, arXiv:2402.17762 §2.3).

Dimension key: N tokens · I inputs
"""

from __future__ import annotations

import torch

GOLDEN = 0x9E3779B1  # Knuth, The Art of Computer Programming 3, §6.4; odd, so that no two tokens share a key
MODULUS = 2**32
TOKENS = 256


class TokenSample:
    """At most `size` rows of a stream, and the weights of their tokens, in the memory of the CPU."""

    def __init__(self, size: int = TOKENS) -> None:
        self._size = size
        self._seen = 0
        self._keys_N = torch.empty(0, dtype=torch.int64)
        self._kept: tuple[torch.Tensor, torch.Tensor] | None = None

    def add(self, rows_NI: torch.Tensor, weights_N: torch.Tensor | None = None) -> None:
        """Count float32 [N, I] in; without weights every token counts once."""
        numbers_N = torch.arange(self._seen + 1, self._seen + 1 + len(rows_NI))
        self._seen += len(rows_NI)
        keys_N = numbers_N * GOLDEN % MODULUS
        known_N = self._keys_N
        if len(known_N) == self._size:
            chosen_N = torch.nonzero(keys_N < known_N.max()).reshape(-1)
        else:
            chosen_N = torch.argsort(keys_N)[: self._size]
        if self._kept is not None and not len(chosen_N):
            return
        weights_N = torch.ones(len(rows_NI)) if weights_N is None else weights_N.float()
        parts = [rows_NI[chosen_N.to(rows_NI.device)].cpu(), weights_N[chosen_N]]
        if self._kept is not None:
            parts = [torch.cat(pair) for pair in zip(self._kept, parts, strict=True)]
        keys_N = torch.cat((known_N, keys_N[chosen_N]))
        order_N = torch.argsort(keys_N)[: self._size]
        self._keys_N = keys_N[order_N]
        self._kept = (parts[0][order_N], parts[1][order_N])

    def tokens(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows that were kept, in the order of their keys, and the weights of those tokens: [N, I] and [N]."""
        assert self._kept is not None, "no token was seen"
        return self._kept
