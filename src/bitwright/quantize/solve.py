"""One matrix, one scheme, one method → QTensor and notes. The door of this room.

Steps: the grid (scale search for the scheme), the codes (nearest, or GPTQ with coordinate descent), the fields that the
format stores. Every fallback becomes a note that ends up in `quant.json` and in the report.

Not here: walking layers (pipeline/), packing (formats/).
Dimension key: O outputs · I inputs · G groups along I
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from bitwright.core.plan import Method
from bitwright.core.schemes import CodebookScheme, Int8RowScheme, MinifloatScheme, QuantScheme, WeightScheme
from bitwright.quantize.activations import input_scale
from bitwright.quantize.codebook import quantize_codebook, quantize_int8_rows
from bitwright.quantize.column_order import is_ordered, moved_back, order_of, plain_scheme
from bitwright.quantize.device_gptq import feedback_codes
from bitwright.quantize.gptq import gptq_codes, refine_codes
from bitwright.quantize.grid import Grid
from bitwright.quantize.grids import code_type, find_grid, matrix_fields, nearest_codes
from bitwright.quantize.nearest import relative
from bitwright.quantize.statistics import SHRINKAGE, Statistics
from bitwright.tensors.devices import CPU
from bitwright.tensors.products import linear
from bitwright.tensors.qtensor import Array, Float32, QTensor

SLAB = 256  # rows per task, at most
# Many small products run beside each other: threads inside BLAS would only wait for one another (docs/log.md)
SINGLE_THREADED_BLAS = functools.partial(ThreadpoolController().limit, limits=1, user_api="blas")
FEW_SLABS = 8
SIZE_ROWS = 2048  # rows whose outputs are summed at once
_Searched = tuple[Grid, dict[str, Array]]  # levels of a slab, and the fields that the format stores for them
_Chosen = tuple[NDArray[np.int16], NDArray[np.floating]]  # codes, and E G of them
Errors = tuple[float, float, float, float]  # squared weight error and size, squared output error and size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Notes:
    """What happened. Errors are relative squared errors; `output_error` is None without statistics, and takes
    errors of different inputs as unrelated where only mean squares are known.
    """

    method: Method
    weight_error: float
    output_error: float | None
    damping: float | None
    notes: tuple[str, ...]


def solve(
    weight_OI: Float32,
    statistics: Statistics | None,
    scheme: QuantScheme,
    method: Method,
    *,
    peak: float | None = None,
    importance_I: Float32 | None = None,
    threads: int | None = None,
) -> tuple[QTensor, Notes]:
    """Quantize one matrix that is held whole. Arguments: see `Solver`; `peak` is by default the matrix's own."""
    solver = Solver(statistics, scheme, method, len(weight_OI), peak=peak, importance_I=importance_I, threads=threads)
    tensor = solver.rows(weight_OI)
    return tensor, solver.notes()


class Solver:
    """Quantizes one matrix, any number of rows at a time, and adds up the errors.

    Rows are solved apart, in slabs of a fixed size, so the result depends neither on `threads` (default: all cores) nor
    on how the matrix is cut, as long as every part but the last is a multiple of `SLAB` rows.
    """

    def __init__(
        self,
        statistics: Statistics | None,
        scheme: QuantScheme,
        method: Method,
        rows: int,
        *,
        peak: float | None = None,
        importance_I: Float32 | None = None,
        threads: int | None = None,
    ) -> None:
        """`rows` counts those of the whole matrix. Without statistics every input counts alike, and codes are nearest.

        `importance_I` is a Gram matrix's diagonal where nothing else of it is known (an importance matrix of
        llama.cpp). `peak` is the largest magnitude of all matrices that an engine fuses with this one, itself included,
        so that the scales which belong to whole matrices (FP8 per tensor, NVFP4) come out alike; default: that of the
        first rows, which must be all of them where `needs_peak`.
        """
        self._stored, self._order_I = scheme, None
        if is_ordered(scheme):
            scheme = plain_scheme(scheme)
            if statistics is not None:
                self._order_I = order_of(statistics.diagonal_I, statistics.feedback)
                statistics = statistics.in_order(self._order_I)
                importance_I = None if importance_I is None else importance_I[self._order_I]
        self._statistics, self._scheme, self._peak = statistics, scheme, peak
        self._used, self._damping, self._said = _method(statistics, method)
        if isinstance(scheme, CodebookScheme | Int8RowScheme):
            self._statistics, self._used, self._damping, self._said = None, "rtn", None, ()
        self._importance_I = importance_I
        self._slab = slab_rows(rows, scheme)
        self._threads = threads or os.cpu_count()
        self._shared: dict[str, Array] | None = None
        self._errors: list[Errors] = []
        self._output_size = 0.0

    def rows(self, weight_OI: Float32, *, decoded_OI: Float32 | None = None) -> QTensor:
        """Quantize the next rows. `decoded_OI` receives the values that readers will see; it may be `weight_OI`."""
        weight_OI = np.ascontiguousarray(weight_OI, dtype=np.float32)
        if isinstance(self._scheme, CodebookScheme | Int8RowScheme):
            return self._whole(weight_OI, self._scheme, decoded_OI)
        order_I: NDArray[np.int64] | slice = slice(None) if self._order_I is None else self._order_I
        weight_OI = np.ascontiguousarray(weight_OI[:, order_I])
        weights_I = self._weights(weight_OI.shape[1])
        if self._shared is None:
            self._shared = matrix_fields(weight_OI, self._scheme, self._peak)
        shared = self._shared
        if self._statistics is not None:
            self._output_size += output_size(weight_OI, self._statistics)

        def search(start: int) -> _Searched:
            return find_grid(weight_OI[start : start + self._slab], weights_I, self._scheme, shared)

        def slab(start: int, searched: _Searched | None = None, chosen: _Chosen | None = None) -> _Slab:
            part = slice(start, start + self._slab)
            found, values_OI = _solve_rows(
                weight_OI[part], self._statistics, searched or search(start), chosen, self._scheme, self._used, shared
            )
            if decoded_OI is not None:
                decoded_OI[part, order_I] = values_OI
            return found

        starts = range(0, weight_OI.shape[0], self._slab)
        with SINGLE_THREADED_BLAS(), ThreadPoolExecutor(self._threads) as pool:
            if self._used == "gptq" and self._statistics is not None and self._statistics.device != CPU:
                searched = list(pool.map(search, starts))
                chosen = _chosen_on_device(weight_OI, [grid for grid, _ in searched], self._statistics)
                slabs = list(pool.map(slab, starts, searched, chosen))
            else:
                slabs = list(pool.map(slab, starts))
        self._errors += [slab.errors for slab in slabs]
        peak = self._statistics.peak if self._statistics else None
        tensor = join_rows([slab.tensor for slab in slabs])
        if is_ordered(self._stored):
            tensor = moved_back(tensor, self._order_I, self._stored)
        return dataclasses.replace(tensor, fields={**tensor.fields, **input_scale(self._scheme, peak)})

    def notes(self) -> Notes:
        """What happened to the rows that were solved."""
        errors = [sum(slab[kind] for slab in self._errors) for kind in range(4)]
        errors[3] += self._output_size
        return Notes(
            method=self._used,
            weight_error=_ratio(errors[0], errors[1]),
            output_error=_ratio(errors[2], errors[3]) if self._statistics else None,
            damping=self._damping,
            notes=self._said,
        )

    def _weights(self, columns: int) -> Float32:
        if self._importance_I is None:
            return importance(self._statistics, columns)
        return relative(self._importance_I)

    def _whole(self, weight_OI: Float32, scheme: CodebookScheme | Int8RowScheme, decoded_OI: Float32 | None) -> QTensor:
        """bitsandbytes' types: its own rounding, which knows no statistics and, for blocks, sees the matrix as one."""
        if isinstance(scheme, CodebookScheme):
            tensor = quantize_codebook(weight_OI, scheme)
        else:
            tensor = quantize_int8_rows(weight_OI, scheme)
        values_OI = tensor.decode()
        for start in range(0, len(weight_OI), SLAB):
            part = slice(start, start + SLAB)
            self._errors.append(_squared_errors(weight_OI[part], values_OI[part], None))
        if decoded_OI is not None:
            decoded_OI[...] = values_OI
        return tensor


def slab_rows(rows: int, scheme: QuantScheme) -> int:
    """Rows per task, of the shape alone, so that sums do not depend on the number of threads.

    Few tasks come in an even number, so that two threads share a matrix of 256 or 768 rows evenly, but no scale is cut.
    """
    if isinstance(scheme, MinifloatScheme) and scheme.scaling == "block":
        return SLAB
    tasks = -(-rows // SLAB)
    if tasks > FEW_SLABS:
        return SLAB
    return -(-rows // (tasks + tasks % 2))


def solved_whole(scheme: QuantScheme) -> bool:
    """Whether all rows have to be solved in one call."""
    return isinstance(scheme, CodebookScheme)


def needs_peak(scheme: WeightScheme) -> bool:
    """Whether a scale of the whole matrix follows from its largest magnitude."""
    return isinstance(scheme, MinifloatScheme) and scheme.scaling in ("tensor", "nv")


def join_rows(parts: Sequence[QTensor]) -> QTensor:
    """Parts of one matrix, one below the other. Fields of one dimension belong to the whole matrix."""
    first = parts[0]
    return QTensor(
        scheme=first.scheme,
        codes=np.concatenate([part.codes for part in parts]),
        fields={
            name: field if field.ndim == 1 else np.concatenate([part.fields[name] for part in parts])
            for name, field in first.fields.items()
        },
    )


def importance(statistics: Statistics | None, columns: int) -> Float32:
    """Weight of every input in the scale search, mean 1, [I]."""
    if statistics is None:
        return np.ones(columns, dtype=np.float32)
    return relative(statistics.diagonal_I)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Slab:
    """Some rows, solved."""

    tensor: QTensor
    errors: Errors


def _method(statistics: Statistics | None, method: Method) -> tuple[Method, float | None, tuple[str, ...]]:
    """What can be done with these statistics, the damping, and what to say about it."""
    if method != "gptq":
        return method, None, ()
    if statistics is None:
        return "rtn", None, ("no statistics for this input: nearest codes",)
    if statistics.feedback is None:
        return "rtn", None, ("the Gram matrix has no Cholesky factor at any damping: nearest codes",)
    return "gptq", statistics.feedback.damping, statistics.feedback.notes


def _chosen_on_device(weight_OI: Float32, grids: Sequence[Grid], statistics: Statistics) -> list[_Chosen]:
    """Codes by feedback, and E G of them, of every slab."""
    feedback, damped_II = statistics.feedback, statistics.damped_II
    assert feedback is not None
    assert damped_II is not None
    return feedback_codes(weight_OI, grids, feedback.upper_II, feedback.order_I, damped_II, statistics.device)


def _solve_rows(
    weight_OI: Float32,
    statistics: Statistics | None,
    searched: _Searched,
    chosen: _Chosen | None,
    scheme: QuantScheme,
    method: Method,
    shared: Mapping[str, Array],
) -> tuple[_Slab, Float32]:
    """The rows, solved on the grid that was found, and their values. Codes by feedback may be `chosen` already."""
    grid, fields = searched
    fields = {**fields, **shared}
    stored_OI: Array
    pull_OI = None
    if method != "gptq":
        stored_OI = nearest_codes(weight_OI, grid, scheme, fields)
    else:
        assert statistics is not None
        assert statistics.feedback is not None
        assert statistics.damped_II is not None
        if chosen is None:
            codes_OI = gptq_codes(weight_OI, grid, statistics.feedback)
            chosen = refine_codes(weight_OI, codes_OI, grid, statistics.damped_II)
        codes_OI, pull_OI = chosen
        stored_OI = grid.stored_codes(codes_OI)
    tensor = QTensor(scheme=scheme, codes=stored_OI.astype(code_type(scheme)), fields=fields)
    values_OI = tensor.decode()
    return _Slab(tensor=tensor, errors=_squared_errors(weight_OI, values_OI, statistics, pull_OI)), values_OI


def _squared_errors(
    weight_OI: Float32, decoded_OI: Float32, statistics: Statistics | None, pull_OI: NDArray[np.floating] | None = None
) -> Errors:
    """Of some rows; the size of outputs by a Gram matrix is left to `output_size`.

    `pull_OI` is the error times the damped Gram matrix, where the descent left it: one product less.
    """
    error_OI = weight_OI - decoded_OI
    squares = (float(np.square(part, dtype=np.float64).sum()) for part in (error_OI, weight_OI))
    if statistics is None:
        return (*squares, 0.0, 0.0)  # type: ignore[return-value]
    if statistics.gram_II is None and statistics.damped_II is None:
        diagonal_I = statistics.diagonal_I.astype(np.float64)
        diagonal = (float((np.square(part, dtype=np.float64) @ diagonal_I).sum()) for part in (error_OI, weight_OI))
        return (*squares, *diagonal)  # type: ignore[return-value]
    if statistics.damped_II is None:
        assert statistics.gram_II is not None
        error = float(np.einsum("oi,oi->", error_OI @ statistics.gram_II, error_OI))
    else:
        pull_OI = error_OI @ statistics.damped_II if pull_OI is None else pull_OI
        damped = float((error_OI.astype(np.float64) * pull_OI).sum())
        error = _undamped(damped, np.square(error_OI, dtype=np.float64).sum(axis=0), statistics)
    return (*squares, error, 0.0)  # type: ignore[return-value]


def _undamped(damped: float, square_I: NDArray[np.float64], statistics: Statistics) -> float:
    """tr(E G Eᵀ) from tr(E D Eᵀ) and the sums of E² by column; D is G with a heavier diagonal and its correlations
    divided by 1 + SHRINKAGE."""
    assert statistics.damped_II is not None
    correlated = damped - float(square_I @ np.diag(statistics.damped_II).astype(np.float64))
    return (1 + SHRINKAGE) * correlated + float(square_I @ statistics.diagonal_I.astype(np.float64))


def output_size(weight_OI: Float32, statistics: Statistics) -> float:
    """tr(W G Wᵀ), rounded to bfloat16 where the processor multiplies that: it only sets errors in proportion.

    0 where no Gram matrix is known.
    """
    held = statistics.gram_II if statistics.damped_II is None else statistics.damped_II
    if held is None:
        return 0.0
    gram, size = torch.from_numpy(held).to(statistics.device), 0.0
    square_I = torch.zeros(len(gram), dtype=torch.float64)
    for part_OI in torch.split(torch.from_numpy(weight_OI), SIZE_ROWS):
        outputs_OI = linear(part_OI.to(statistics.device), gram, reduced=True).cpu()
        size += float((outputs_OI * part_OI).sum(dtype=torch.float64))
        square_I += part_OI.square().sum(dim=0, dtype=torch.float64)
    return size if statistics.damped_II is None else _undamped(size, square_I.numpy(), statistics)


def _ratio(error: float, size: float) -> float:
    return max(error, 0.0) / size if size > 0 else 0.0
