"""Names for the arrays that pass between algorithms and formats, and how values per group become values per input."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Float32 = NDArray[np.float32]


def spread(groups: NDArray[np.float32], like: Array) -> NDArray[np.float32]:
    """Repeat per-group values along the inputs until they match `like`."""
    return np.repeat(groups, like.shape[1] // groups.shape[1], axis=1)
