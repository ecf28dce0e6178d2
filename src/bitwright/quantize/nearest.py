"""The plain weighted search: scales by search, codes the nearest ones, no error fed back.

Apart from solve.py, because it needs neither torch nor a factorization: a run with an importance matrix starts in a
fraction of a second. Dimension key: O outputs · I inputs
"""

from __future__ import annotations

import numpy as np

from bitwright.core.schemes import GgmlScheme, QuantScheme
from bitwright.quantize.ggml_grids import ggml_grid
from bitwright.quantize.grid import round_to_grid, squared_errors
from bitwright.quantize.grids import code_type, find_grid, matrix_fields, nearest_codes
from bitwright.tensors.qtensor import Float32, QTensor

IMPORTANCE_FLOOR = 0.01  # of the mean: an input that calibration never excited still counts


def relative(mean_squares_I: Float32) -> Float32:
    """Weights from the mean square of every input, [I]; all alike where nothing was excited."""
    diagonal_I = mean_squares_I.astype(np.float64)
    mean = diagonal_I.mean()
    if not mean > 0:
        return np.ones(len(diagonal_I), dtype=np.float32)
    weights_I: Float32 = (diagonal_I / mean + IMPORTANCE_FLOOR).astype(np.float32)
    return weights_I


def round_weighted(weight_OI: Float32, weights_I: Float32, scheme: QuantScheme) -> QTensor:
    """The scale search and the nearest codes, in this thread: errors of input i count `weights_I[i]` times."""
    shared = matrix_fields(weight_OI, scheme, None)
    grid, fields = find_grid(weight_OI, weights_I, scheme, shared)
    fields = {**fields, **shared}
    codes_OI = nearest_codes(weight_OI, grid, scheme, fields).astype(code_type(scheme))
    return QTensor(scheme=scheme, codes=codes_OI, fields=fields)


def round_measured(weight_OI: Float32, weights_I: Float32, kind: str) -> tuple[QTensor, float, float]:
    """The same for rows of a ggml type, with the squared sums of their errors and of themselves."""
    scheme = GgmlScheme(type=kind)
    grid, fields = ggml_grid(weight_OI, weights_I, kind)
    codes_OI = round_to_grid(weight_OI, grid, code_type(scheme))
    error, size = squared_errors(weight_OI, codes_OI, grid)
    return QTensor(scheme=scheme, codes=grid.stored_codes(codes_OI), fields=fields), error, size


def decoded_errors(weight_OI: Float32, decoded_OI: Float32) -> tuple[float, float]:
    """Squared sums of the errors of decoded values, and of the weights."""
    error_OI = weight_OI - decoded_OI
    return float(np.vdot(error_OI, error_OI)), float(np.vdot(weight_OI, weight_OI))
