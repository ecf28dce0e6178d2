"""Values of integer groups: `scale * (code - zero_point)`, as compressed-tensors computes them in float32.

Fields: scale [O, G] float32; zero_point [O, G] int8 when asymmetric. G divides the inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitwright.tensors.arrays import Array, Float32, spread


def integer_values(codes_OI: Array, fields: Mapping[str, Array]) -> Float32:
    """float32 [O, I]."""
    codes = codes_OI.astype(np.float32)
    if "zero_point" in fields:
        codes = codes - spread(fields["zero_point"].astype(np.float32), codes)
    return codes * spread(fields["scale"].astype(np.float32), codes)
