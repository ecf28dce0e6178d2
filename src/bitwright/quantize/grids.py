"""The grid of every scheme: which search fixes its scales, and which of the found values the file stores.

Not here: the searches themselves (integer.py, kquants.py), codes (solve.py).
Dimension key: O outputs · I inputs · G groups along I
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bitwright.core.schemes import GgmlScheme, IntScheme, MinifloatScheme, QuantScheme
from bitwright.quantize import integer, kquants, minifloat
from bitwright.quantize.grid import Grid, round_to_grid
from bitwright.tensors.qtensor import Array, Float32


def matrix_fields(weight_OI: Float32, scheme: QuantScheme, peak: float | None) -> dict[str, Array]:
    """Fields of the whole matrix, which all its rows need before they are solved. `peak`: see `solve`."""
    if not isinstance(scheme, MinifloatScheme):
        return {}
    return minifloat.shared_fields(float(np.abs(weight_OI).max()) if peak is None else peak, scheme)


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
    match scheme.type:
        case "Q4_K":
            return kquants.affine_kquant(weight_OI, weights_I, high=15)
        case "Q5_K":
            return kquants.affine_kquant(weight_OI, weights_I, high=31)
        case "Q6_K":
            return kquants.signed_kquant(weight_OI, weights_I)
        case "Q4_1" | "Q5_1":
            grid = integer.offset_grid(
                weight_OI, weights_I, group_size=32, high=15 if scheme.type == "Q4_1" else 31, dtype="f16"
            )
            return grid, {"d": grid.step_OG.astype(np.float16), "m": grid.offset_OG.astype(np.float16)}
        case "Q4_0" | "Q5_0" | "Q8_0":
            return _legacy_grid(weight_OI, weights_I, scheme.type)
        case _:
            raise AssertionError(f"{scheme.type} is not quantized")


def nearest_codes(weight_OI: Float32, grid: Grid, scheme: QuantScheme, fields: Mapping[str, Array]) -> Array:
    """What the file holds for every weight when each takes the level nearest to it."""
    if isinstance(scheme, MinifloatScheme):
        return minifloat.nearest_codes(weight_OI, scheme, fields)
    return grid.stored_codes(round_to_grid(weight_OI, grid))


def _legacy_grid(weight_OI: Float32, weights_I: Float32, kind: str) -> tuple[Grid, dict[str, Array]]:
    # codes are stored without a sign except in Q8_0, where -128 is left out as every reader's own quantizer does
    low, high, zero = {"Q4_0": (-8, 7, 8), "Q5_0": (-16, 15, 16), "Q8_0": (-127, 127, 0)}[kind]
    found = integer.symmetric_grid(
        weight_OI, weights_I, group_size=32, low=low, high=high, dtype="f16", signed=kind != "Q8_0"
    )
    grid = dataclasses.replace(found, zero_OG=np.full_like(found.step_OG, zero), low=low + zero, high=high + zero)
    return grid, {"d": found.step_OG.astype(np.float16)}


def _integer_grid(weight_OI: Float32, weights_I: Float32, scheme: IntScheme) -> tuple[Grid, dict[str, Array]]:
    group = scheme.group_size or weight_OI.shape[1]
    low, high = -(2 ** (scheme.bits - 1)), 2 ** (scheme.bits - 1) - 1
    shared: dict[str, Any] = {"group_size": group, "low": low, "high": high, "dtype": scheme.scale_dtype}
    if scheme.symmetric:
        grid = integer.symmetric_grid(weight_OI, weights_I, **shared)
        return grid, {"scale": grid.step_OG}
    grid = integer.zero_point_grid(weight_OI, weights_I, **shared)
    return grid, {"scale": grid.step_OG, "zero_point": grid.zero_OG.astype(np.int8)}


def code_type(scheme: QuantScheme) -> type[np.generic]:
    """The type in which a `QTensor` holds codes."""
    signed = isinstance(scheme, IntScheme) or (isinstance(scheme, GgmlScheme) and scheme.type == "Q8_0")
    return np.int8 if signed else np.uint8
