"""Quantize one unit: the embedding, a decoder block, or the head. Values in, records and region bytes out.

A method that scales columns first rewrites the block (rescale.py).
Inside a block the groups of linears go in the order of the forward pass. Each group's Gram matrix is taken on inputs
that the already quantized weights produced, then the group is solved and its decoded values replace the weights, all in
one pass (modeling/stages.py). What a tensor's plan leaves in floating point keeps its values.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.statistics import InputStatistics
from bitwright.core.plan import Method, TensorPlan
from bitwright.core.protocols import WeightSource
from bitwright.core.records import TensorRecord
from bitwright.core.schemes import FloatScheme, MinifloatScheme
from bitwright.facts.blocks import Group, block_folds
from bitwright.facts.families import BLOCK, FAMILIES, FINAL_NORM
from bitwright.formats.layout import ArtifactWriter
from bitwright.modeling.stages import run_staged
from bitwright.modeling.walk import Walker
from bitwright.pipeline.block_inputs import BlockInputs, TokenWeights
from bitwright.pipeline.casts import cast_loss, is_half, saturated
from bitwright.pipeline.rescale import divide_norm, scaling_note, smoothed_groups, stored_dtype, weight_of
from bitwright.pipeline.sensitivity import Sensitivities
from bitwright.pipeline.units import is_float
from bitwright.quantize.scaling import scale_columns
from bitwright.quantize.solve import Statistics, solve
from bitwright.tensors.products import has_bfloat16

HEAVIEST = 100.0  # times the mean weight of a token: single tokens reach 1,300 (docs/log.md)
BATCH_TOKENS = 4096  # tokens per forward pass: large enough for the matrix products, small beside a block's weights


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
    saturate: bool = False  # whether F16 tensors are cut to its range
    sensitivities: Sensitivities | None = None
    emit: Callable[[Mapping[str, bytes]], None]
    importance: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)

    @property
    def narrow(self) -> bool:
        """Whether passes with feedback keep hidden states in bfloat16 too."""
        return self.reduced and has_bfloat16()


def write_tensor(
    shop: Workshop,
    name: str,
    statistics: Statistics | None = None,
    *,
    values: NDArray[np.float32] | None = None,
    peak: float | None = None,
    said: tuple[str, ...] = (),
    tokens: int | None = None,
) -> tuple[TensorRecord, NDArray[np.float32]]:
    """Solve or cast one tensor and emit its bytes. Returns the record and the values that readers will see.

    `values` are the tensor's, where they are no longer the checkpoint's; `peak` is the largest magnitude of all that an
    engine fuses with it, where scales depend on it; `said` and `tokens`, what an expert saw, go into the record.
    """
    started = time.monotonic()
    entry = shop.plans[name]
    if values is None:
        values = shop.source.load(name).float().numpy()
    if isinstance(entry.scheme, FloatScheme) or is_float(entry):
        if is_half(entry):
            said = (*said, *cast_loss(values).notes())
            values = saturated(values) if shop.saturate else values
        shop.emit(shop.writer.encode(entry, values))
        record = TensorRecord(
            name=name, scheme=entry.scheme.label, method="cast", bytes=entry.bytes, weight_error=0.0,
            notes=said, seconds=time.monotonic() - started,
        )  # fmt: skip
        return record, values
    if shop.importance and name not in shop.importance:
        said = (*said, "the importance matrix does not speak of this tensor: every input counts alike")
    tensor, notes = solve(
        values, statistics, entry.scheme, shop.method, peak=peak, importance_I=shop.importance.get(name)
    )
    shop.emit(shop.writer.encode(entry, tensor))
    record = TensorRecord(
        name=name, scheme=entry.scheme.label, method=notes.method, bytes=entry.bytes, weight_error=notes.weight_error,
        output_error=notes.output_error, damping=notes.damping, notes=(*said, *notes.notes),
        seconds=time.monotonic() - started, tokens=tokens,
    )  # fmt: skip
    return record, tensor.decode()


def quantize_block(
    shop: Workshop, walker: Walker, index: int, hidden_WTH: torch.Tensor | None
) -> tuple[tuple[TensorRecord, ...], torch.Tensor | None]:
    """One decoder block. Without hidden states (an artifact all in floating point) tensors are only cast."""
    prefix = BLOCK.format(layer=index)
    names = [name for name in shop.plans if name.startswith(prefix)]
    if hidden_WTH is None:
        return tuple(write_tensor(shop, name)[0] for name in names), None
    block = walker.load_block(index)
    groups = {group.name: group for group in walker.groups(index)}
    batches: Sequence[torch.Tensor] = torch.split(hidden_WTH, max(1, BATCH_TOKENS // hidden_WTH.shape[1]))
    inputs = BlockInputs(
        shop.source.facts, index, block, groups, token_weights(shop, index), shop.method, reduced=shop.reduced
    )
    outputs: Sequence[torch.Tensor] = ()
    if shop.rescale or shop.method != "gptq":
        folds = block_folds(shop.source.facts, index) if shop.rescale else ()
        outputs = inputs.float_pass(
            walker, [part.float() for part in batches], smoothed_groups(folds, shop.plans, prefix)
        )
        inputs.prepare(shop.plans, rescale=shop.rescale)
    linears = {f"{prefix}{module}.weight" for group in groups.values() for module in group.linears}
    records = {
        name: write_tensor(shop, name, values=block.get_parameter(name.removeprefix(prefix)).data.numpy())[0]
        for name in names
        if name not in linears
    }

    def solve_group(group: Group, statistics: Statistics | None) -> None:
        members = {f"{prefix}{module}.weight": block.get_submodule(module) for module in group.linears}
        peak = fused_peak({name: (shop.plans[name], weight_of(linear)) for name, linear in members.items()})
        for name, linear in members.items():
            records[name], values = write_tensor(
                shop, name, statistics, values=weight_of(linear), peak=peak, said=inputs.notes(group, name),
                tokens=inputs.tokens.get(group.name),
            )  # fmt: skip
            linear.weight.data = torch.from_numpy(values)

    if shop.method != "gptq":  # nothing is fed back, so the float pass has seen all that is needed
        for group in groups.values():
            solve_group(group, inputs.known[group.name])
        return tuple(records[name] for name in names), torch.cat(tuple(outputs))
    if shop.narrow:
        walker.narrow(block)
        batches = [part.bfloat16() for part in batches]
    leaders = {group.leader: group for group in groups.values()}
    staged = run_staged(
        lambda part: walker.forward(block, part),
        block,
        batches,
        list(leaders),
        lambda leader, part: inputs.observe(leaders[leader], part),
        lambda leader: solve_group(leaders[leader], inputs.complete(leaders[leader])),
    )
    return tuple(records[name] for name in names), torch.cat(staged)


def token_weights(shop: Workshop, index: int) -> TokenWeights:
    """Weights of the calibration tokens at block `index`, mean 1 per group; empty when every token counts alike."""
    if shop.sensitivities is None:
        return {}
    return {group: tempered(tokens) for group, tokens in shop.sensitivities.block(index).tokens.items()}


def tempered(tokens_N: NDArray[np.float32]) -> torch.Tensor:
    """Mean squared gradients as weights of mean 1, the largest cut off at `HEAVIEST`."""
    weights_N = torch.from_numpy(tokens_N).double()
    weights_N = (weights_N / weights_N.mean()).clamp(max=HEAVIEST)
    return (weights_N / weights_N.mean()).float()


def fused_peak(members: Mapping[str, tuple[TensorPlan, NDArray[np.float32]]]) -> float | None:
    """The largest magnitude of matrices that share a scale because engines run them as one; `None` where none do.

    Linears that read one input are those that engines fuse: q, k and v, and gate and up.
    """
    schemes = {entry.scheme for entry, _ in members.values()}
    if not any(isinstance(scheme, MinifloatScheme) and scheme.scaling in ("tensor", "nv") for scheme in schemes):
        return None
    return max(float(np.abs(values).max()) for _, values in members.values())


def quantize_head(shop: Workshop, walker: Walker, name: str, hidden_WTH: torch.Tensor) -> tuple[TensorRecord, ...]:
    """The final norm and the output head `name`, with the statistics of the last hidden states.

    A head of its own may have its columns scaled; a tied one is the embedding too, whose columns nothing can undo.
    """
    running = InputStatistics(hidden_WTH.shape[-1])
    weights_N = tempered(shop.sensitivities.head().tokens) if shop.sensitivities else None
    for part in torch.split(hidden_WTH, max(1, BATCH_TOKENS // hidden_WTH.shape[1])):
        count = part.shape[0] * part.shape[1]
        some_N = None if weights_N is None else weights_N[running.tokens : running.tokens + count]
        running.add(walker.normed(part.float()), some_N)
    gram_II = running.gram(name)
    if not shop.rescale or walker.tied:
        statistics = Statistics.of(gram_II, shop.method, peak=running.peak)
        return write_tensor(shop, FINAL_NORM)[0], write_tensor(shop, name, statistics)[0]
    norm, values = copy.deepcopy(walker.final_norm()), shop.source.load(name).float().numpy()
    scheme = shop.plans[name].scheme
    assert not isinstance(scheme, FloatScheme), name
    found = scale_columns([values], [scheme], np.ascontiguousarray(np.diag(gram_II)))
    offset = FAMILIES[shop.source.facts.family].norm_offset
    scales_I = divide_norm(norm, found.scales_I, stored_dtype(shop.plans[FINAL_NORM]), offset)
    statistics = Statistics.of(gram_II / np.outer(scales_I, scales_I), shop.method)
    first = write_tensor(shop, FINAL_NORM, values=norm.get_parameter("weight").data.numpy())[0]
    said = (scaling_note(found, FINAL_NORM),)
    return first, write_tensor(shop, name, statistics, values=values * scales_I, said=said)[0]
