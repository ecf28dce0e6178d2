"""What tells calibration tokens apart. Apart from corpora.py, because a run without text needs no torch."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def tokens_sha256(tokens_WT: NDArray[np.int64]) -> str:
    """The identity of windows of token ids, [W, T]."""
    return hashlib.sha256(repr(tuple(tokens_WT.shape)).encode() + tokens_WT.astype("<i8").tobytes()).hexdigest()
