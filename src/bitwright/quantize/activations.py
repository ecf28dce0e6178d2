"""The stored scale of activations that an engine rounds with a fixed one.

    int8   peak / 127.5        e4m3   peak / 448        e2m1 (NVFP4)   448 * 6 / peak, or its inverse
`peak` is the largest magnitude that calibration saw enter the linear, or what an observer makes of all of
them. Dynamic activations store nothing.

Not here: rounding activations (modeling/rounded_inputs.py).
Source: compressed-tensors 0.20, quantization/utils/helpers.py (calculate_qparams, generate_gparam).
"""

from __future__ import annotations

import numpy as np

from bitwright.core.errors import UsageError
from bitwright.core.schemes import IntScheme, MinifloatScheme, QuantScheme, static_inputs
from bitwright.quantize.integer import round_scale
from bitwright.tensors.minifloat_values import MINIFLOATS
from bitwright.tensors.qtensor import Array

INT8_HALF_RANGE = 127.5


def input_scale(scheme: QuantScheme, peak: float | None) -> dict[str, Array]:
    """The field `input_scale` [1], or nothing. Raises `UsageError` for a scale to be stored of inputs never seen."""
    inputs = static_inputs(scheme)
    if inputs is None:
        return {}
    assert isinstance(scheme, IntScheme | MinifloatScheme)
    if peak is None:
        raise UsageError(
            f"{scheme.label} stores the scale of activations, which needs calibration text",
            hint="choose a type with dynamic activations",
        )
    peak = peak if peak > 0 else 1.0
    if inputs.scaling == "nv":
        factor = MINIFLOATS["e4m3"].largest * MINIFLOATS["e2m1"].largest / peak
        if isinstance(scheme, MinifloatScheme) and scheme.factor == "multiplier":
            factor = 1 / factor
        return {"input_scale": np.array([factor], dtype=np.float32)}
    half = INT8_HALF_RANGE if inputs.element == "int8" else MINIFLOATS["e4m3"].largest
    return {"input_scale": round_scale(np.array([peak / half], dtype=np.float32), scheme.scale_dtype)}
