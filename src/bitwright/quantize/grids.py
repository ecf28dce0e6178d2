"""The grid of every scheme: which search fixes its scales, and which of the found values the file stores.

Not here: the searches themselves (integer.py, ggml_grids.py and below), codes (solve.py).
Dimension key: O outputs · I inputs · G groups along I
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bitwright.core.schemes import GgmlScheme, IntScheme, MinifloatScheme, QuantScheme
from bitwright.quantize import integer, minifloat
from bitwright.quantize.ggml_grids import ggml_grid
from bitwright.quantize.grid import Grid, round_to_grid
from bitwright.tensors.qtensor import Array, Float32


def matrix_fields(weight_OI: Float32, scheme: QuantScheme, peak: float | None) -> dict[str, Array]:
    """Fields of the whole matrix, which all its rows need before they are solved. `peak`: see `solve`."""
    if not isinstance(scheme, MinifloatScheme):
        return {}
    own = max(weight_OI.max(), -weight_OI.min()) if peak is None else peak
    return minifloat.shared_fields(float(own), scheme)


def find_grid(
    weight_OI: Float32, weights_I: Float32, scheme: QuantScheme, shared: Mapping[str, Array]
) -> tuple[Grid, dict[str, Array]]:
    """Levels of some rows, and the fields that the format stores for them. `weights_I` weighs errors per input, mean 1;
    `shared` are the `matrix_fields`."""
    if isinstance(scheme, MinifloatScheme):
        return minifloat.minifloat_grid(weight_OI, weights_I, scheme, shared)
    if isinstance(scheme, IntScheme):
        return _integer_grid(weight_OI, weights_I, scheme)
    assert isinstance(scheme, GgmlScheme), scheme
    return ggml_grid(weight_OI, weights_I, scheme.type)


def _integer_grid(weight_OI: Float32, weights_I: Float32, scheme: IntScheme) -> tuple[Grid, dict[str, Array]]:
    group = scheme.group_size or weight_OI.shape[1]
    low, high = -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1
    shared: dict[str, Any] = {"group_size": group, "low": low, "high": high, "dtype": scheme.scale_dtype}
    if scheme.symmetric:
        grid = integer.symmetric_grid(weight_OI, weights_I, **shared)
        return grid, {"scale": grid.step_OG}
    grid = integer.zero_point_grid(weight_OI, weights_I, **shared)
    return grid, {"scale": grid.step_OG, "zero_point": grid.zero_OG.astype(np.int8)}


def nearest_codes(weight_OI: Float32, grid: Grid, scheme: QuantScheme, fields: Mapping[str, Array]) -> Array:
    """What the format stores for the nearest value of every weight, [O, I]."""
    if isinstance(scheme, MinifloatScheme):
        return minifloat.nearest_codes(weight_OI, scheme, fields)
    return grid.stored_codes(round_to_grid(weight_OI, grid))


def code_type(scheme: QuantScheme) -> type[np.generic]:
    """The type in which a `QTensor` holds codes."""
    signed = isinstance(scheme, IntScheme) or (isinstance(scheme, GgmlScheme) and scheme.type == "Q8_0")
    return np.int8 if signed else np.uint8
