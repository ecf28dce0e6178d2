"""Values of integer groups: `scale * (code - zero_point)`, as compressed-tensors computes them in float32.

Fields: scale [O, G] float32; zero_point [O, G] int8 when asymmetric. G divides the inputs. Groups are runs of inputs,
unless group_index [I] int32 names the group of every input.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bitwright.tensors.arrays import Array, Float32, spread


def integer_values(codes_OI: Array, fields: Mapping[str, Array]) -> Float32:
    """float32 [O, I]."""
    codes = codes_OI.astype(np.float32)
    if "zero_point" in fields:
        codes = codes - _per_input(fields["zero_point"].astype(np.float32), codes, fields)
    return codes * _per_input(fields["scale"].astype(np.float32), codes, fields)


def _per_input(values_OG: Float32, codes: Float32, fields: Mapping[str, Array]) -> Float32:
    if "group_index" not in fields:
        return spread(values_OG, codes)
    chosen: Float32 = values_OG[:, fields["group_index"].astype(np.intp)]
    return chosen
