"""Quantize one unit: the embedding, a decoder block, or the head. Values in, records and region bytes out.

Inside a block the groups of linears go in the order of the forward pass. Each group's Gram matrix is taken on inputs
that the already quantized weights produced, then the group is solved and its decoded values replace the weights, all in
one pass (modeling/stages.py). What a tensor's plan leaves in floating point keeps its values.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.statistics import InputStatistics
from bitwright.core.plan import Method, TensorPlan
from bitwright.core.protocols import WeightSource
from bitwright.core.records import TensorRecord
from bitwright.core.schemes import FloatScheme, GgmlScheme
from bitwright.facts.families import BLOCK, LINEARS
from bitwright.formats.layout import ArtifactWriter
from bitwright.modeling.stages import run_staged
from bitwright.modeling.walk import Walker
from bitwright.quantize.solve import Statistics, solve

BATCH_TOKENS = 4096  # tokens per forward pass: large enough for the matrix products, small beside a block's weights


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """What every unit needs. `emit` takes region bytes."""

    source: WeightSource
    writer: ArtifactWriter
    plans: Mapping[str, TensorPlan]
    method: Method
    emit: Callable[[Mapping[str, bytes]], None]


def is_float(entry: TensorPlan) -> bool:
    """Whether the plan leaves the tensor in floating point."""
    return isinstance(entry.scheme, FloatScheme) or (isinstance(entry.scheme, GgmlScheme) and entry.scheme.is_float)


def write_tensor(
    shop: Workshop, name: str, statistics: Statistics | None = None
) -> tuple[TensorRecord, NDArray[np.float32]]:
    """Solve or cast one tensor and emit its bytes. Returns the record and the values that readers will see."""
    started = time.monotonic()
    entry = shop.plans[name]
    values: NDArray[np.float32] = shop.source.load(name).float().numpy()
    if isinstance(entry.scheme, FloatScheme) or is_float(entry):
        shop.emit(shop.writer.encode(entry, values))
        record = TensorRecord(
            name=name, scheme=entry.scheme.label, method="cast", bytes=entry.bytes, weight_error=0.0,
            seconds=time.monotonic() - started,
        )  # fmt: skip
        return record, values
    tensor, notes = solve(values, statistics, entry.scheme, shop.method)
    shop.emit(shop.writer.encode(entry, tensor))
    record = TensorRecord(
        name=name, scheme=entry.scheme.label, method=notes.method, bytes=entry.bytes, weight_error=notes.weight_error,
        output_error=notes.output_error, damping=notes.damping, notes=notes.notes, seconds=time.monotonic() - started,
    )  # fmt: skip
    return record, tensor.decode()


def quantize_block(
    shop: Workshop, walker: Walker, index: int, hidden_WTH: torch.Tensor | None
) -> tuple[tuple[TensorRecord, ...], torch.Tensor | None]:
    """One decoder block. Without hidden states (an artifact all in floating point) tensors are only cast."""
    prefix = BLOCK.format(layer=index)
    names = [name for name in shop.plans if name.startswith(prefix)]
    linears = {f"{prefix}{module}.weight" for modules in LINEARS.values() for module in modules}
    records = {name: write_tensor(shop, name)[0] for name in names if hidden_WTH is None or name not in linears}
    if hidden_WTH is None:
        return tuple(records[name] for name in names), None
    block = walker.load_block(index)
    groups = {modules[0]: modules for modules in LINEARS.values()}
    running: dict[str, InputStatistics] = {}

    def observe(leader: str, inputs: torch.Tensor) -> None:
        running.setdefault(leader, InputStatistics(inputs.shape[-1])).add(inputs)

    def complete(leader: str) -> None:
        statistics = Statistics.of(running.pop(leader).gram(prefix + leader), shop.method)
        for module in groups[leader]:
            name = f"{prefix}{module}.weight"
            records[name], values = write_tensor(shop, name, statistics)
            linear = block.get_submodule(module)
            linear.weight.data = torch.from_numpy(values)

    per_batch = max(1, BATCH_TOKENS // hidden_WTH.shape[1])
    outputs = run_staged(
        lambda part: walker.forward(block, part),
        block,
        torch.split(hidden_WTH, per_batch),
        list(groups),
        observe,
        complete,
    )
    return tuple(records[name] for name in names), torch.cat(outputs)


def head_statistics(walker: Walker, hidden_WTH: torch.Tensor, method: Method) -> Statistics:
    """Statistics of the input of the output head: the final norm of the last hidden states."""
    running = InputStatistics(hidden_WTH.shape[-1])
    for part in torch.split(hidden_WTH, max(1, BATCH_TOKENS // hidden_WTH.shape[1])):
        running.add(walker.normed(part))
    return Statistics.of(running.gram("lm_head"), method)
