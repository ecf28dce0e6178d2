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
from torch import nn

from bitwright.calibration.statistics import InputStatistics, MeanSquare
from bitwright.core.plan import Method, TensorPlan
from bitwright.core.protocols import WeightSource
from bitwright.core.records import TensorRecord
from bitwright.core.schemes import FloatScheme, GgmlScheme, MinifloatScheme
from bitwright.facts.families import BLOCK, FINAL_NORM, LINEARS, InputGroup
from bitwright.formats.layout import ArtifactWriter
from bitwright.modeling.stages import run_staged
from bitwright.modeling.walk import Walker
from bitwright.pipeline.rescale import divide_norm, rescale_block, scaling_note, stored_dtype, weight_of
from bitwright.pipeline.sensitivity import Sensitivities
from bitwright.quantize.scaling import scale_columns
from bitwright.quantize.solve import Statistics, solve

TokenWeights = Mapping[InputGroup, torch.Tensor]
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
    sensitivities: Sensitivities | None = None
    emit: Callable[[Mapping[str, bytes]], None]
    importance: Mapping[str, NDArray[np.float32]] = dataclasses.field(default_factory=dict)


def is_float(entry: TensorPlan) -> bool:
    """Whether the plan leaves the tensor in floating point."""
    return isinstance(entry.scheme, FloatScheme) or (isinstance(entry.scheme, GgmlScheme) and entry.scheme.is_float)


def write_tensor(
    shop: Workshop,
    name: str,
    statistics: Statistics | None = None,
    *,
    values: NDArray[np.float32] | None = None,
    peak: float | None = None,
    note: str | None = None,
) -> tuple[TensorRecord, NDArray[np.float32]]:
    """Solve or cast one tensor and emit its bytes. Returns the record and the values that readers will see.

    `values` are the tensor's, where they are no longer the checkpoint's; `peak` is the largest magnitude of all that an
    engine fuses with it, where scales depend on it; `note` goes into the record.
    """
    started = time.monotonic()
    entry = shop.plans[name]
    if values is None:
        values = shop.source.load(name).float().numpy()
    if isinstance(entry.scheme, FloatScheme) or is_float(entry):
        shop.emit(shop.writer.encode(entry, values))
        record = TensorRecord(
            name=name, scheme=entry.scheme.label, method="cast", bytes=entry.bytes, weight_error=0.0,
            notes=(note,) if note else (), seconds=time.monotonic() - started,
        )  # fmt: skip
        return record, values
    if shop.importance and name not in shop.importance:
        note = "the importance matrix does not speak of this tensor: every input counts alike"
    tensor, notes = solve(
        values, statistics, entry.scheme, shop.method, peak=peak, importance_I=shop.importance.get(name)
    )
    shop.emit(shop.writer.encode(entry, tensor))
    said = (note, *notes.notes) if note else notes.notes
    record = TensorRecord(
        name=name, scheme=entry.scheme.label, method=notes.method, bytes=entry.bytes, weight_error=notes.weight_error,
        output_error=notes.output_error, damping=notes.damping, notes=said, seconds=time.monotonic() - started,
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
    batches = torch.split(hidden_WTH, max(1, BATCH_TOKENS // hidden_WTH.shape[1]))
    weights = token_weights(shop, index)
    notes: dict[str, str] = {}
    known: dict[InputGroup, Statistics] = {}
    outputs: Sequence[torch.Tensor] = ()
    if shop.rescale or shop.method != "gptq":
        squares, outputs = _float_pass(walker, block, batches, weights)
        notes, known = _prepare(shop, block, squares, prefix)
    linears = {f"{prefix}{module}.weight" for modules in LINEARS.values() for module in modules}
    records = {
        name: write_tensor(shop, name, values=block.get_parameter(name.removeprefix(prefix)).data.numpy())[0]
        for name in names
        if name not in linears
    }

    def solve_group(group: InputGroup, statistics: Statistics) -> None:
        members = {f"{prefix}{module}.weight": block.get_submodule(module) for module in LINEARS[group]}
        peak = fused_peak({name: (shop.plans[name], weight_of(linear)) for name, linear in members.items()})
        for name, linear in members.items():
            records[name], values = write_tensor(
                shop, name, statistics, values=weight_of(linear), note=notes.get(name), peak=peak
            )
            linear.weight.data = torch.from_numpy(values)

    if shop.method != "gptq":  # nothing is fed back, so the float pass has seen all that is needed
        for group in LINEARS:
            solve_group(group, known[group])
        return tuple(records[name] for name in names), torch.cat(tuple(outputs))
    groups = {modules[0]: group for group, modules in LINEARS.items()}
    running: dict[str, InputStatistics] = {}

    def observe(leader: str, inputs: torch.Tensor) -> None:
        seen = running.setdefault(leader, InputStatistics(inputs.shape[-1]))
        seen.add(inputs, _part(weights, groups[leader], seen.tokens, inputs))

    def complete(leader: str) -> None:
        seen = running.pop(leader)
        solve_group(groups[leader], Statistics.of(seen.gram(prefix + leader), shop.method, peak=seen.peak))

    staged = run_staged(lambda part: walker.forward(block, part), block, batches, list(groups), observe, complete)
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


def _part(weights: TokenWeights, group: InputGroup, start: int, inputs: torch.Tensor) -> torch.Tensor | None:
    """The weights of the tokens in `inputs`, the first of which is token `start`."""
    if group not in weights:
        return None
    return weights[group][start : start + inputs.shape[:-1].numel()]


def _float_pass(
    walker: Walker, block: nn.Module, batches: Sequence[torch.Tensor], weights: TokenWeights
) -> tuple[dict[InputGroup, MeanSquare], list[torch.Tensor]]:
    """Run the block as it is: mean squares of every group's input, and the outputs."""
    squares = {group: MeanSquare() for group in LINEARS}

    def observer(group: InputGroup) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def observe(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            squares[group].add(args[0], _part(weights, group, squares[group].tokens, args[0]))

        return observe

    handles = [
        block.get_submodule(modules[0]).register_forward_pre_hook(observer(group)) for group, modules in LINEARS.items()
    ]
    try:
        return squares, [walker.forward(block, part) for part in batches]
    finally:
        for handle in handles:
            handle.remove()


def _prepare(
    shop: Workshop, block: nn.Module, squares: Mapping[InputGroup, MeanSquare], prefix: str
) -> tuple[dict[str, str], dict[InputGroup, Statistics]]:
    """Fold scales where the plan says so. Returns notes for the record, and what is known of the inputs after it."""
    found = {group: running.mean(prefix + LINEARS[group][0]) for group, running in squares.items()}
    peaks = {group: running.amax_I for group, running in squares.items()}
    notes: dict[str, str] = {}
    if shop.rescale:
        facts = shop.source.facts
        notes, scales = rescale_block(block, found, shop.plans, prefix, heads=facts.heads, kv_heads=facts.kv_heads)
        for group, scales_I in scales.items():
            found[group] = (found[group] / np.square(scales_I)).astype(np.float32)
            amax_I = peaks[group]
            peaks[group] = None if amax_I is None else amax_I / torch.from_numpy(scales_I)
    known = {}
    for group, diagonal_I in found.items():
        amax_I = peaks[group]
        known[group] = Statistics(diagonal_I=diagonal_I, peak=None if amax_I is None else float(amax_I.max()))
    return notes, known


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
        running.add(walker.normed(part), some_N)
    gram_II = running.gram(name)
    if not shop.rescale or walker.tied:
        statistics = Statistics.of(gram_II, shop.method, peak=running.peak)
        return write_tensor(shop, FINAL_NORM)[0], write_tensor(shop, name, statistics)[0]
    norm, values = copy.deepcopy(walker.final_norm()), shop.source.load(name).float().numpy()
    scheme = shop.plans[name].scheme
    assert not isinstance(scheme, FloatScheme), name
    found = scale_columns([values], [scheme], np.ascontiguousarray(np.diag(gram_II)))
    scales_I = divide_norm(norm, found.scales_I, stored_dtype(shop.plans[FINAL_NORM]))
    statistics = Statistics.of(gram_II / np.outer(scales_I, scales_I), shop.method)
    first = write_tensor(shop, FINAL_NORM, values=norm.get_parameter("weight").data.numpy())[0]
    note = scaling_note(found, FINAL_NORM)
    return first, write_tensor(shop, name, statistics, values=values * scales_I, note=note)[0]
