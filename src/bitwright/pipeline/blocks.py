"""Quantize one unit: the embedding, a decoder block, or the head. Values in, records and region bytes out.

A method that scales columns first rewrites the block (rescale.py).
Inside a block the groups of linears go in the order of the forward pass. Each group's Gram matrix is taken on inputs
that the already quantized weights produced, then the group is solved and its decoded values replace the weights, all in
one pass (modeling/stages.py). What a tensor's plan leaves in floating point keeps its values.
"""

from __future__ import annotations

import collections
import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bitwright.calibration.statistics import InputStatistics
from bitwright.core.plan import ModelFacts, TensorPlan
from bitwright.core.records import TensorRecord
from bitwright.core.schemes import FloatScheme
from bitwright.facts.blocks import Group, block_folds
from bitwright.facts.cache_scales import KEY_SCALE, is_cache_scale
from bitwright.facts.families import BLOCK, FAMILIES, FINAL_NORM, InputGroup
from bitwright.modeling.cache_peaks import E4M3_LARGEST, CachePeaks
from bitwright.modeling.copies import renew
from bitwright.modeling.stages import run_repeated, run_staged
from bitwright.modeling.walk import Walker
from bitwright.pipeline.block_inputs import BlockInputs, TokenWeights
from bitwright.pipeline.distill import distill_block
from bitwright.pipeline.hidden import HiddenStates
from bitwright.pipeline.input_ranges import InputRanges, stored_element, stored_elements
from bitwright.pipeline.rescale import divide_norm, scaling_note, smoothed_groups, stored_dtype, weight_of
from bitwright.pipeline.rows import HeldRows, StoredRows, parts
from bitwright.pipeline.workshop import Workshop, write_tensor
from bitwright.quantize.scaling import scale_trials, trial_of
from bitwright.quantize.solve import needs_peak
from bitwright.quantize.statistics import Statistics
from bitwright.tensors.devices import fetched

HEAVIEST = 100.0  # times the mean weight of a token: single tokens reach 1,300 (docs/log.md)
BATCH_TOKENS = 4096  # tokens per forward pass: large enough for the matrix products, small beside a block's weights
WIDEST = 1 << 25  # values of one activation in a forward pass: 128 MiB in float32, of which several are alive
PAUSED_BYTES = 1 << 30  # of all batches that stand in a block; what would be more is computed again


def quantize_block(
    shop: Workshop, walker: Walker, index: int, hidden: HiddenStates | None
) -> tuple[tuple[TensorRecord, ...], HiddenStates | None]:
    """One decoder block. Without hidden states (an artifact all in floating point) tensors are only cast.

    Returns its records, and the hidden states behind it.
    """
    names = [name for name in shop.plans if name.startswith(BLOCK.format(layer=index))]
    if hidden is None:
        return tuple(write_tensor(shop, name) for name in names), None
    cached = [name for name in names if is_cache_scale(name)]
    walker.cache_peaks = _cache_peaks(shop) if cached else None
    bench = _Bench(shop, walker, index, [name for name in names if name not in cached])
    steps = {"zeroquant": bench.train, "gptq": bench.feed_back}
    behind = steps.get(shop.method, bench.round)(hidden)
    records = bench.records | write_cache_scales(shop, walker.cache_peaks, cached)
    return tuple(records[name] for name in names), behind


class _Bench:
    """One loaded block, what is known of its inputs, and the records of what has been written."""

    def __init__(self, shop: Workshop, walker: Walker, index: int, names: Sequence[str]) -> None:
        self.records: dict[str, TensorRecord] = {}
        self._shop, self._walker, self._index, self._names = shop, walker, index, names
        self._prefix = BLOCK.format(layer=index)
        self._block = walker.load_block(index)
        self._groups = {group.name: group for group in walker.groups(index)}
        self._ranges = InputRanges(shop.new_observer, stored_elements(self._groups, shop.plans, self._prefix))
        self._inputs = BlockInputs(
            shop.source.facts, index, self._block, self._groups, token_weights(shop, index), shop.method,
            reduced=shop.reduced, act_order=shop.act_order, ranges=self._ranges, device=walker.devices[0],
        )  # fmt: skip

    def round(self, hidden: HiddenStates) -> HiddenStates:
        """Nothing is fed back: one pass of the bare block has seen all that is needed, but for histograms."""
        batches = self._batches(hidden)
        if self._ranges.groups:
            collections.deque(self._float_pass(batches), maxlen=0)
            self._prepare()
            behind = hidden.followed_by(self._range_pass(batches))
        else:
            behind = hidden.followed_by(self._float_pass(batches))
            self._prepare()
        for group in self._groups.values():
            self._solve(group, self._inputs.known[group.name])
        return behind

    def train(self, hidden: HiddenStates) -> HiddenStates:
        """Codes that repeat the outputs of the bare block (distill.py)."""
        batches = self._batches(hidden)
        targets = tuple(self._float_pass(batches))
        self._prepare()
        if self._ranges.groups:
            collections.deque(self._range_pass(batches), maxlen=0)
        trained = distill_block(
            self._shop, self._walker, self._index, self._block, self._inputs, self._groups, batches, targets
        )
        self.records |= trained.records
        return hidden.followed_by(trained.outputs)

    def feed_back(self, hidden: HiddenStates) -> HiddenStates:
        """Each group on the inputs that the quantized ones before it produce."""
        batches = self._batches(hidden)
        if self._shop.rescale:
            collections.deque(self._float_pass(batches), maxlen=0)  # the outputs of the quantized block follow
            self._prepare()
        else:
            self._write_rest()
        if self._shop.narrow:
            self._walker.narrow(self._block)
            batches = self._batches(hidden, torch.bfloat16)
        copies = self._inputs.copies = self._walker.copies(self._block)
        leaders = {group.leader: group for group in self._groups.values()}
        again = _is_run_again(self._shop.source.facts, self._groups, hidden)
        outputs = (run_repeated if again else run_staged)(
            self._walker.forward,
            copies,
            batches,
            list(leaders),
            lambda leader, part: self._inputs.observe(leaders[leader], part),
            lambda leader: self._complete(leaders[leader], copies),
        )
        return hidden.followed_by(fetched(outputs, len(copies)))

    def _batches(self, hidden: HiddenStates, dtype: torch.dtype | None = None) -> Sequence[torch.Tensor]:
        return hidden.batches(windows_at_once(self._shop.source.facts, hidden.length), dtype=dtype)

    def _complete(self, group: Group, copies: Sequence[nn.Module]) -> None:
        self._solve(group, self._inputs.complete(group))
        renew(copies, self._block, group.linears)

    def _float_pass(self, batches: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
        folds = block_folds(self._shop.source.facts, self._index) if self._shop.rescale else ()
        sampled = smoothed_groups(folds, self._shop.plans, self._prefix)
        return self._inputs.float_pass(self._walker, (part.float() for part in batches), sampled)

    def _range_pass(self, batches: Sequence[torch.Tensor]) -> Iterable[torch.Tensor]:
        return self._inputs.range_pass(self._walker, (part.float() for part in batches))

    def _prepare(self) -> None:
        """After the float pass: scale columns if the plan does, and write what is no linear, norms among it."""
        self._inputs.prepare(self._shop.plans, rescale=self._shop.rescale)
        self._write_rest()

    def _write_rest(self) -> None:
        linears = {f"{self._prefix}{module}.weight" for group in self._groups.values() for module in group.linears}
        for name in self._names:
            if name not in linears:
                values = self._block.get_parameter(name.removeprefix(self._prefix)).data.numpy()
                self.records[name] = write_tensor(self._shop, name, rows=HeldRows(values))

    def _solve(self, group: Group, statistics: Statistics | None) -> None:
        members = {f"{self._prefix}{module}.weight": self._block.get_submodule(module) for module in group.linears}
        peak = fused_peak({name: (self._shop.plans[name], weight_of(linear)) for name, linear in members.items()})
        for name, linear in members.items():
            self.records[name] = write_tensor(
                self._shop, name, statistics, rows=HeldRows(weight_of(linear)), peak=peak,
                said=self._inputs.notes(group, name), tokens=self._inputs.tokens.get(group.name),
            )  # fmt: skip


def _cache_peaks(shop: Workshop) -> CachePeaks:
    new = shop.new_observer
    return CachePeaks() if new is None else CachePeaks((new(), new()))


def windows_at_once(facts: ModelFacts, length: int) -> int:
    """Windows of one forward pass."""
    widest = max(facts.intermediate, facts.heads * facts.head_dim)
    return max(1, min(BATCH_TOKENS, WIDEST // widest) // length)


def _is_run_again(facts: ModelFacts, groups: Mapping[InputGroup, Group], hidden: HiddenStates) -> bool:
    """Whether batches that wait at the widest linear would hold too much: residual, norm and that linear's input.

    Experts are left to wait: each would ask for a pass of its own.
    """
    paused = hidden.windows * hidden.length * (2 * hidden.width + facts.intermediate) * hidden.item_bytes
    return paused > PAUSED_BYTES and all(group.expert is None for group in groups.values())


def write_cache_scales(shop: Workshop, peaks: CachePeaks | None, names: Sequence[str]) -> dict[str, TensorRecord]:
    """The scales of the key-value cache, where the plan stores them."""
    records = {}
    for name in names:
        assert peaks is not None, name
        peak, scale = (found[not name.endswith(KEY_SCALE)] for found in ((peaks.key, peaks.value), peaks.scales()))
        said: tuple[str, ...] = (f"the largest magnitude that was seen: {peak:g}",)
        if shop.new_observer is not None:
            said = (*said, f"the scale reaches to {scale * E4M3_LARGEST:g}")
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


def quantize_head(shop: Workshop, walker: Walker, name: str, hidden: HiddenStates) -> tuple[TensorRecord, ...]:
    """The final norm and the output head `name`, with the statistics of the last hidden states.

    A head of its own may have its columns scaled; a tied one is the embedding too, whose columns nothing can undo.
    """
    running, devices = InputStatistics(hidden.width), itertools.cycle(walker.devices)
    weights_N = tempered(shop.sensitivities.head().tokens) if shop.sensitivities else None
    element = stored_element(shop.plans[name].scheme)
    ranges = InputRanges(shop.new_observer, {} if element is None else {name: element})
    for part in hidden.batches(windows_at_once(shop.source.facts, hidden.length)):
        count = part.shape[0] * part.shape[1]
        some_N = None if weights_N is None else weights_N[running.tokens : running.tokens + count]
        normed = walker.normed(part.float().to(next(devices)))
        running.add(normed, some_N)
        ranges.add(name, normed)
    gram_II = running.take_gram(name)
    if not shop.rescale or walker.tied:
        statistics = Statistics.taking(
            gram_II, shop.method, peak=ranges.take(name, running.peak), act_order=shop.act_order,
            device=walker.devices[0],
        )  # fmt: skip
        return write_tensor(shop, FINAL_NORM), write_tensor(shop, name, statistics)
    norm, rows, entry = copy.deepcopy(walker.final_norm()), StoredRows(shop.source, name), shop.plans[name]
    assert not isinstance(entry.scheme, FloatScheme), name
    trial = trial_of((rows.read(*part) for part in parts(entry.shape)), entry.shape[0])
    found = scale_trials([trial], [entry.scheme], np.ascontiguousarray(np.diag(gram_II)))
    offset = FAMILIES[shop.source.facts.family].norm_offset
    scales_I = divide_norm(norm, found.scales_I, stored_dtype(shop.plans[FINAL_NORM]), offset)
    gram_II = gram_II / np.outer(scales_I, scales_I)
    statistics = Statistics.taking(gram_II, shop.method, act_order=shop.act_order, device=walker.devices[0])
    first = write_tensor(shop, FINAL_NORM, rows=HeldRows(norm.get_parameter("weight").data.numpy()))
    said = (scaling_note(found, FINAL_NORM),)
    return first, write_tensor(shop, name, statistics, rows=StoredRows(shop.source, name, scales_I), said=said)
