"""Eight 4-bit values in a 32-bit word, in the order of AWQ's GEMM kernels.

Nibble i of a word, from the lowest bits, holds column ORDER[i] of the eight: the kernel takes even columns from the
lower half word and odd ones from the upper.

Source: AutoAWQ 0.2, awq/modules/linear/gemm.py and awq/utils/packing_utils.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.formats.packed import gptq_packing

BITS = 4
PER_WORD = 8
ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
INVERSE = (0, 4, 1, 5, 2, 6, 3, 7)


def pack(values: NDArray[Any]) -> NDArray[np.int32]:
    """Unsigned nibbles [R, C], C a multiple of 8 → words [R, C/8]."""
    lanes = values.reshape(values.shape[0], -1, PER_WORD)[:, :, ORDER]
    return gptq_packing.pack(lanes.reshape(values.shape), BITS)


def unpack(words: NDArray[np.int32]) -> NDArray[np.uint8]:
    """The inverse of `pack`."""
    nibbles = gptq_packing.unpack(words, BITS)
    return nibbles.reshape(nibbles.shape[0], -1, PER_WORD)[:, :, INVERSE].reshape(nibbles.shape)
