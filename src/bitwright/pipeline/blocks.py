"""Quantize one unit: the embedding, a decoder block, or the head. Values in, records and region bytes out.

A method that scales columns first rewrites the block (rescale.py).
Inside a block the groups of linears go in the order of the forward pass. Each group's Gram matrix is taken on inputs
that the already quantized weights produced, then the group is solved and its decoded values replace the weights, all in
one pass (modeling/stages.py). What a tensor's plan leaves in floating point keeps its values.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bitwright.calibration.statistics import InputStatistics
from bitwright.core.plan import TensorPlan
from bitwright.core.records import TensorRecord
from bitwright.core.schemes import FloatScheme
from bitwright.facts.blocks import Group, block_folds
from bitwright.facts.cache_scales import KEY_SCALE, is_cache_scale
from bitwright.facts.families import BLOCK, FAMILIES, FINAL_NORM
from bitwright.modeling.cache_peaks import CachePeaks
from bitwright.modeling.stages import run_staged
from bitwright.modeling.walk import Walker
from bitwright.pipeline.block_inputs import BlockInputs, TokenWeights
from bitwright.pipeline.distill import distill_block
from bitwright.pipeline.rescale import divide_norm, scaling_note, smoothed_groups, stored_dtype, weight_of
from bitwright.pipeline.rows import HeldRows, StoredRows, parts
from bitwright.pipeline.workshop import Workshop, write_tensor
from bitwright.quantize.scaling import scale_trials, trial_of
from bitwright.quantize.solve import Statistics, needs_peak

HEAVIEST = 100.0  # times the mean weight of a token: single tokens reach 1,300 (docs/log.md)
BATCH_TOKENS = 4096  # tokens per forward pass: large enough for the matrix products, small beside a block's weights


def quantize_block(
    shop: Workshop, walker: Walker, index: int, hidden_WTH: torch.Tensor | None
) -> tuple[tuple[TensorRecord, ...], torch.Tensor | None]:
    """One decoder block. Without hidden states (an artifact all in floating point) tensors are only cast."""
    prefix = BLOCK.format(layer=index)
    names = [name for name in shop.plans if name.startswith(prefix)]
    cached = [name for name in names if is_cache_scale(name)]
    walker.cache_peaks = CachePeaks() if cached else None
    if hidden_WTH is None:
        return tuple(write_tensor(shop, name) for name in names), None
    block = walker.load_block(index)
    groups = {group.name: group for group in walker.groups(index)}
    batches: Sequence[torch.Tensor] = torch.split(hidden_WTH, max(1, BATCH_TOKENS // hidden_WTH.shape[1]))
    inputs = BlockInputs(
        shop.source.facts, index, block, groups, token_weights(shop, index), shop.method, reduced=shop.reduced,
        act_order=shop.act_order,
    )  # fmt: skip
    outputs: Sequence[torch.Tensor] = ()
    if shop.rescale or shop.method != "gptq":
        folds = block_folds(shop.source.facts, index) if shop.rescale else ()
        outputs = inputs.float_pass(
            walker, [part.float() for part in batches], smoothed_groups(folds, shop.plans, prefix)
        )
        inputs.prepare(shop.plans, rescale=shop.rescale)
    linears = {f"{prefix}{module}.weight" for group in groups.values() for module in group.linears}
    records = {
        name: write_tensor(shop, name, rows=HeldRows(block.get_parameter(name.removeprefix(prefix)).data.numpy()))
        for name in names
        if name not in linears and name not in cached
    }

    def solve_group(group: Group, statistics: Statistics | None) -> None:
        members = {f"{prefix}{module}.weight": block.get_submodule(module) for module in group.linears}
        peak = fused_peak({name: (shop.plans[name], weight_of(linear)) for name, linear in members.items()})
        for name, linear in members.items():
            records[name] = write_tensor(
                shop, name, statistics, rows=HeldRows(weight_of(linear)), peak=peak, said=inputs.notes(group, name),
                tokens=inputs.tokens.get(group.name),
            )  # fmt: skip

    if shop.method == "zeroquant":
        trained = distill_block(shop, walker, index, block, inputs, groups, batches, outputs)
        records |= trained.records
        return tuple(records[name] for name in names), torch.cat(tuple(trained.outputs))
    if shop.method != "gptq":  # nothing is fed back, so the float pass has seen all that is needed
        for group in groups.values():
            solve_group(group, inputs.known[group.name])
        records |= write_cache_scales(shop, walker.cache_peaks, cached)
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
    records |= write_cache_scales(shop, walker.cache_peaks, cached)
    return tuple(records[name] for name in names), torch.cat(staged)


def write_cache_scales(shop: Workshop, peaks: CachePeaks | None, names: Sequence[str]) -> dict[str, TensorRecord]:
    """The scales of the key-value cache, where the plan stores them."""
    records = {}
    for name in names:
        assert peaks is not None, name
        peak, scale = (found[not name.endswith(KEY_SCALE)] for found in ((peaks.key, peaks.value), peaks.scales()))
        said = (f"the largest magnitude that was seen: {peak:g}",)
        records[name] = write_tensor(shop, name, rows=HeldRows(np.array([scale], dtype=np.float32)), said=said)
    return records


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
    if not any(needs_peak(entry.scheme) for entry, _ in members.values()):
        return None
    return max(float(max(values.max(), -values.min())) for _, values in members.values())


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
        statistics = Statistics.of(gram_II, shop.method, peak=running.peak, act_order=shop.act_order)
        return write_tensor(shop, FINAL_NORM), write_tensor(shop, name, statistics)
    norm, rows, entry = copy.deepcopy(walker.final_norm()), StoredRows(shop.source, name), shop.plans[name]
    assert not isinstance(entry.scheme, FloatScheme), name
    trial = trial_of((rows.read(*part) for part in parts(entry.shape)), entry.shape[0])
    found = scale_trials([trial], [entry.scheme], np.ascontiguousarray(np.diag(gram_II)))
    offset = FAMILIES[shop.source.facts.family].norm_offset
    scales_I = divide_norm(norm, found.scales_I, stored_dtype(shop.plans[FINAL_NORM]), offset)
    statistics = Statistics.of(gram_II / np.outer(scales_I, scales_I), shop.method, act_order=shop.act_order)
    first = write_tensor(shop, FINAL_NORM, rows=HeldRows(norm.get_parameter("weight").data.numpy()))
    said = (scaling_note(found, FINAL_NORM),)
    return first, write_tensor(shop, name, statistics, rows=StoredRows(shop.source, name, scales_I), said=said)
