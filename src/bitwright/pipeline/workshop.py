"""One tensor: read, solved or cast, written. Values in, a record and region bytes out.

A matrix is taken some rows at a time, so that the embedding of a large vocabulary costs no more memory than that of a
small one. Rows are solved apart and lie one behind the other in most files, so the bytes are those of the whole matrix;
where they do not, codes are gathered and laid out at the end.

Not here: statistics and the order of work (blocks.py), reading (formats/), files (output.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from bitwright.core.plan import Method, TensorPlan
from bitwright.core.protocols import WeightSource
from bitwright.core.records import TensorRecord
from bitwright.core.schemes import FloatScheme, QuantScheme
from bitwright.formats.layout import ArtifactWriter
from bitwright.pipeline.casts import CastLoss, cast_loss, is_half, saturated
from bitwright.pipeline.input_ranges import NewObserver
from bitwright.pipeline.rows import Rows, StoredRows, parts
from bitwright.pipeline.sensitivity import Sensitivities
from bitwright.pipeline.units import is_float
from bitwright.quantize.nearest import decoded_errors
from bitwright.quantize.solve import Solver, join_rows, needs_peak, solved_whole
from bitwright.quantize.statistics import Statistics
from bitwright.tensors.devices import CPU, Devices
from bitwright.tensors.products import has_bfloat16
from bitwright.tensors.qtensor import Float32, QTensor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every unit needs. `emit` takes region bytes; `importance` is mean squares of inputs by tensor, where an
    importance matrix takes the place of statistics."""

    source: WeightSource
    writer: ArtifactWriter
    plans: Mapping[str, TensorPlan]
    method: Method
    rescale: bool  # whether columns are scaled first
    reduced: bool = False  # whether the model multiplies in bfloat16
    devices: Devices = (CPU,)  # that blocks run on
    act_order: bool = True  # whether GPTQ takes columns by falling weight
    new_observer: NewObserver | None = None  # of inputs, keys and values; without, the largest magnitude counts
    saturate: bool = False  # whether F16 tensors are cut to its range
    sensitivities: Sensitivities | None = None
    emit: Callable[[Mapping[str, bytes]], None]
    importance: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    @property
    def rounding(self) -> Method:
        """The method for a single matrix: training takes whole blocks, the rest is rounded to nearest."""
        return "rtn" if self.method == "zeroquant" else self.method

    @property
    def narrow(self) -> bool:
        """Whether passes with feedback keep hidden states in bfloat16 too."""
        return self.reduced and all(has_bfloat16(device) for device in self.devices)


def write_tensor(
    shop: Workshop,
    name: str,
    statistics: Statistics | None = None,
    *,
    rows: Rows | None = None,
    see: Callable[[int, Float32], None] | None = None,
    peak: float | None = None,
    said: tuple[str, ...] = (),
    tokens: int | None = None,
) -> TensorRecord:
    """Solve or cast one tensor and emit its bytes.

    `rows` are the tensor's, where they are no longer the checkpoint's; codes that were solved leave their values in
    them. `see` is told the values that readers will see, from which row on. `peak` is the largest magnitude of all that
    an engine fuses with it, where scales depend on it; `said` and `tokens`, what an expert saw, go into the record.
    """
    started = time.monotonic()
    entry = shop.plans[name]
    rows = rows or StoredRows(shop.source, name)
    if isinstance(entry.scheme, FloatScheme) or is_float(entry):
        said = (*said, *_cast(shop, entry, rows, see))
        return TensorRecord(
            name=name, scheme=entry.scheme.label, method="cast", bytes=entry.bytes, weight_error=0.0,
            notes=said, seconds=time.monotonic() - started,
        )  # fmt: skip
    if shop.importance and name not in shop.importance:
        said = (*said, "the importance matrix does not speak of this tensor: every input counts alike")
    if peak is None and needs_peak(entry.scheme):
        peak = max(_largest(rows.read(*part)) for part in parts(entry.shape))
    solver = Solver(
        statistics, entry.scheme, shop.rounding, entry.shape[0], peak=peak, importance_I=shop.importance.get(name)
    )
    _solve(shop, entry, entry.scheme, solver, rows, see)
    notes = solver.notes()
    return TensorRecord(
        name=name, scheme=entry.scheme.label, method=notes.method, bytes=entry.bytes, weight_error=notes.weight_error,
        output_error=notes.output_error, damping=notes.damping, notes=(*said, *notes.notes),
        seconds=time.monotonic() - started, tokens=tokens,
    )  # fmt: skip


def write_codes(
    shop: Workshop, name: str, tensor: QTensor, weight_OI: Float32, *, said: tuple[str, ...] = (), seconds: float
) -> TensorRecord:
    """Emit codes that were chosen elsewhere, for the matrix `weight_OI`."""
    entry = shop.plans[name]
    shop.emit(shop.writer.encode(entry, tensor))
    error, size = decoded_errors(weight_OI, tensor.decode())
    return TensorRecord(
        name=name, scheme=entry.scheme.label, method=shop.method, bytes=entry.bytes,
        weight_error=error / size if size > 0 else 0.0, notes=said, seconds=seconds,
    )  # fmt: skip


def _largest(values: Float32) -> float:
    return float(max(values.max(), -values.min()))


def _cast(shop: Workshop, entry: TensorPlan, rows: Rows, see: Callable[[int, Float32], None] | None) -> tuple[str, ...]:
    """Returns what to say of it."""
    loss = CastLoss()
    for start, stop in parts(entry.shape, whole=not shop.writer.rows_apart(entry)):
        values = rows.read(start, stop)
        if is_half(entry):
            loss += cast_loss(values)
            if shop.saturate:
                values[...] = saturated(values)
        shop.emit(shop.writer.encode(entry, values))
        if see is not None:
            see(start, values)
    return loss.notes()


def _solve(
    shop: Workshop,
    entry: TensorPlan,
    scheme: QuantScheme,
    solver: Solver,
    rows: Rows,
    see: Callable[[int, Float32], None] | None,
) -> None:
    apart = shop.writer.rows_apart(entry)
    kept: list[QTensor] = []
    for start, stop in parts(entry.shape, whole=solved_whole(scheme)):
        values = rows.read(start, stop)
        tensor = solver.rows(values, decoded_OI=values)
        if see is not None:
            see(start, values)
        if apart:
            shop.emit(shop.writer.encode(entry, tensor))
        else:
            kept.append(tensor)
    if kept:
        shop.emit(shop.writer.encode(entry, join_rows(kept) if len(kept) > 1 else kept[0]))
