"""GPTQ files decoded as their description says, with nothing of the reader in it."""

from __future__ import annotations

import numpy as np
import torch


def dequantize_by_the_book(stored: dict[str, torch.Tensor], module: str, bits: int, *, first: bool) -> np.ndarray:
    """AutoGPTQ's description, one Python integer at a time: nothing is shared with the reader."""
    columns_of_words = stored[f"{module}.qweight"].numpy().view(np.uint32).T
    zero_words = stored[f"{module}.qzeros"].numpy().view(np.uint32)
    scales, groups = stored[f"{module}.scales"].numpy(), stored[f"{module}.g_idx"].tolist()
    mask = (1 << bits) - 1

    def values(words: np.ndarray) -> list[int]:
        stream = sum(int(word) << (32 * i) for i, word in enumerate(words))
        return [stream >> (bits * i) & mask for i in range(len(words) * 32 // bits)]

    zeros = [values(words) for words in zero_words]
    rows = []
    for o, words in enumerate(columns_of_words):
        codes = values(words)
        rows.append(
            [np.float32(scales[g, o]) * np.float32(q - zeros[g][o] - first) for q, g in zip(codes, groups, strict=True)]
        )
    return np.array(rows, dtype=np.float32)
