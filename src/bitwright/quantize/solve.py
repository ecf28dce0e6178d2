"""One matrix, one scheme, one method → QTensor and notes. The door of this room.

Steps: the grid (scale search for the scheme), the codes (nearest, or GPTQ with coordinate descent), the fields that the
format stores. Every fallback becomes a note that ends up in `quant.json` and in the report.

Not here: walking layers (pipeline/), packing (formats/).
Dimension key: O outputs · I inputs · G groups along I
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.plan import Method
from bitwright.core.schemes import GgmlScheme, IntScheme
from bitwright.quantize import integer, kquants
from bitwright.quantize.gptq import Feedback, factorize, gptq_codes, refine_codes
from bitwright.quantize.grid import Grid, round_to_grid
from bitwright.tensors.qtensor import Array, Float32, QTensor

IMPORTANCE_FLOOR = 0.01  # of the mean: an input that calibration never excited still counts; same share as the damping


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What happened. Errors are relative squared errors; `output_error` is None without a Gram matrix."""

    method: Method
    weight_error: float
    output_error: float | None
    damping: float | None
    notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What is known of one input: its Gram matrix, and the factor that GPTQ needs (shared by all its readers)."""

    gram_II: Float32
    feedback: Feedback | None

    @staticmethod
    def of(gram_II: Float32, method: Method) -> Statistics:
        """Prepare a Gram matrix for `method`."""
        return Statistics(gram_II=gram_II, feedback=factorize(gram_II) if method == "gptq" else None)


def solve(
    weight_OI: Float32, statistics: Statistics | None, scheme: IntScheme | GgmlScheme, method: Method
) -> tuple[QTensor, Notes]:
    """Quantize one matrix. Without statistics every input counts alike and codes are the nearest ones."""
    weight_OI = np.ascontiguousarray(weight_OI, dtype=np.float32)
    grid, fields = _grid(weight_OI, importance(statistics, weight_OI.shape[1]), scheme)
    codes_OI, used, damping, notes = _codes(weight_OI, statistics, grid, method)
    tensor = QTensor(scheme=scheme, codes=codes_OI.astype(_code_type(scheme)), fields=fields)
    weight_error, output_error = relative_errors(weight_OI, tensor.decode(), statistics)
    return tensor, Notes(
        method=used, weight_error=weight_error, output_error=output_error, damping=damping, notes=tuple(notes)
    )


def importance(statistics: Statistics | None, columns: int) -> Float32:
    """Weight of every input in the scale search, mean 1, [I]."""
    if statistics is None:
        return np.ones(columns, dtype=np.float32)
    diagonal_I = np.diag(statistics.gram_II).astype(np.float64)
    mean = diagonal_I.mean()
    if not mean > 0:
        return np.ones(columns, dtype=np.float32)
    weights_I: Float32 = (diagonal_I / mean + IMPORTANCE_FLOOR).astype(np.float32)
    return weights_I


def relative_errors(
    weight_OI: Float32, decoded_OI: Float32, statistics: Statistics | None
) -> tuple[float, float | None]:
    """Squared error over squared size: of the weights, and of the outputs Σ_rows E G Eᵀ / Σ_rows W G Wᵀ."""
    error_OI = weight_OI - decoded_OI
    size = float(np.square(weight_OI, dtype=np.float64).sum())
    weight_error = float(np.square(error_OI, dtype=np.float64).sum()) / size if size else 0.0
    if statistics is None:
        return weight_error, None
    numerator = float(np.einsum("oi,oi->", error_OI @ statistics.gram_II, error_OI))
    denominator = float(np.einsum("oi,oi->", weight_OI @ statistics.gram_II, weight_OI))
    return weight_error, max(numerator, 0.0) / denominator if denominator > 0 else 0.0


def _codes(
    weight_OI: Float32, statistics: Statistics | None, grid: Grid, method: Method
) -> tuple[NDArray[np.int16], Method, float | None, list[str]]:
    if method == "rtn" or statistics is None:
        notes = ["no statistics for this input: nearest codes"] if method == "gptq" else []
        return round_to_grid(weight_OI, grid), "rtn", None, notes
    feedback = statistics.feedback
    if feedback is None:
        return (
            round_to_grid(weight_OI, grid),
            "rtn",
            None,
            ["the Gram matrix has no Cholesky factor at any damping: nearest codes"],
        )
    codes_OI = gptq_codes(weight_OI, grid, feedback)
    codes_OI = refine_codes(weight_OI, codes_OI, grid, damped(statistics.gram_II, feedback.damping))
    return codes_OI, "gptq", feedback.damping, list(feedback.notes)


def damped(gram_II: Float32, share: float) -> Float32:
    """The matrix that GPTQ saw: G plus `share` of its mean diagonal."""
    result_II = gram_II.copy()
    result_II[np.diag_indices_from(result_II)] += np.float32(share) * np.diag(gram_II).mean()
    return result_II


def _grid(weight_OI: Float32, weights_I: Float32, scheme: IntScheme | GgmlScheme) -> tuple[Grid, dict[str, Array]]:
    if isinstance(scheme, IntScheme):
        return _integer_grid(weight_OI, weights_I, scheme)
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


def _code_type(scheme: IntScheme | GgmlScheme) -> type[np.generic]:
    signed = isinstance(scheme, IntScheme) or scheme.type == "Q8_0"
    return np.int8 if signed else np.uint8
