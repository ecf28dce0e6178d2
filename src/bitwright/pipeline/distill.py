"""ZeroQuant: nearest codes on searched scales, then codes trained on the block's own outputs.

The block sees what the rounded blocks before it give out, and its teacher is itself in floating point on the same
inputs. Codes that training did not make better on the calibration windows are not taken.

Not here: the training (modeling/distillation.py), scales (quantize/). Tensors whose plan is not an integer grid
(a kept or hand-typed matrix) are rounded as they would be under `rtn` and take no part.
Dimension key: O outputs · I inputs
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from bitwright.core.records import TensorRecord
from bitwright.core.schemes import InputRounding, IntScheme
from bitwright.facts.blocks import Group
from bitwright.facts.families import BLOCK, InputGroup
from bitwright.modeling.distillation import Latent, block_error, distill, linears_of
from bitwright.modeling.walk import Linear, Walker
from bitwright.pipeline.block_inputs import BlockInputs
from bitwright.pipeline.rescale import weight_of
from bitwright.pipeline.rows import HeldRows
from bitwright.pipeline.workshop import Workshop, write_codes, write_tensor
from bitwright.quantize.solve import solve
from bitwright.quantize.statistics import Statistics
from bitwright.tensors.qtensor import Float32, QTensor


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Distilled:
    """Records of the block's linears, and its outputs with the values that readers see."""

    records: Mapping[str, TensorRecord]
    outputs: Sequence[torch.Tensor]


def distill_block(
    shop: Workshop,
    walker: Walker,
    index: int,
    block: nn.Module,
    inputs: BlockInputs,
    groups: Mapping[InputGroup, Group],
    batches: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
) -> Distilled:
    """Round every linear of the loaded block, train the codes, write the better ones."""
    started = time.monotonic()
    prefix = BLOCK.format(layer=index)
    known = {module: inputs.known[group.name] for group in groups.values() for module in group.linears}
    originals = {module: weight_of(block.get_submodule(module)).copy() for module in known}
    integers = [module for module in known if isinstance(shop.plans[_name(prefix, module)].scheme, IntScheme)]
    linears = linears_of(block, integers)
    records = {
        _name(prefix, module): write_tensor(
            shop, _name(prefix, module), statistics, rows=HeldRows(weight_of(block.get_submodule(module)))
        )
        for module, statistics in known.items()
        if module not in linears
    }
    nearest = {module: _nearest(shop, prefix, module, originals[module], known[module]) for module in linears}
    for module, linear in linears.items():
        linear.rounding = _rounding(nearest[module])
    floats = [part.float() for part in batches]

    def forward(part: torch.Tensor) -> torch.Tensor:
        return walker.forward_with_gradient(block, part)

    latents = {module: _latent(originals[module], nearest[module]) for module in linears}
    distill(forward, linears, latents, torch.cat(floats), torch.cat(tuple(targets)), seed=index)
    trained = {module: _with_codes(nearest[module], latents[module]) for module in linears}
    tries = {"before": nearest, "after": trained}
    errors, results = {}, {}
    for label, tensors in tries.items():
        _set(linears, tensors)
        with torch.no_grad():
            errors[label], results[label] = block_error(forward, floats, targets)
    best = "after" if errors["after"] < errors["before"] else "before"
    _set(linears, tries[best])
    said: tuple[str, ...] = (
        f"error of the block's outputs {errors['before']:.2e} with the nearest codes, {errors['after']:.2e} trained",
    )
    if best == "before":
        said = (*said, "training made it worse: the nearest codes are kept")
    seconds = (time.monotonic() - started) / max(len(linears), 1)
    for module in linears:
        name = _name(prefix, module)
        told = (*inputs.notes(_group(groups, module), name), *said)
        records[name] = write_codes(shop, name, tries[best][module], originals[module], said=told, seconds=seconds)
    return Distilled(records=records, outputs=results[best])


def _name(prefix: str, module: str) -> str:
    return f"{prefix}{module}.weight"


def _group(groups: Mapping[InputGroup, Group], module: str) -> Group:
    return next(group for group in groups.values() if module in group.linears)


def _nearest(shop: Workshop, prefix: str, module: str, weight_OI: Float32, statistics: Statistics) -> QTensor:
    scheme = shop.plans[_name(prefix, module)].scheme
    assert isinstance(scheme, IntScheme)
    return solve(weight_OI, statistics, scheme, "rtn")[0]


def _latent(weight_OI: Float32, tensor: QTensor) -> Latent:
    scheme = tensor.scheme
    assert isinstance(scheme, IntScheme)
    half = 2 ** (scheme.bits - 1)
    zero = tensor.fields.get("zero_point")
    return Latent.of(
        torch.from_numpy(weight_OI),
        torch.from_numpy(tensor.fields["scale"].astype(np.float32)),
        None if zero is None else torch.from_numpy(zero.astype(np.float32)),
        -half,
        half - 1,
    )


def _with_codes(tensor: QTensor, latent: Latent) -> QTensor:
    return dataclasses.replace(tensor, codes=latent.codes().numpy().astype(tensor.codes.dtype))


def _set(linears: Mapping[str, Linear], tensors: Mapping[str, QTensor]) -> None:
    for module, linear in linears.items():
        linear.weight.data = torch.from_numpy(tensors[module].decode())


def _rounding(tensor: QTensor) -> InputRounding | None:
    """How the engine will round what enters the linear."""
    assert isinstance(tensor.scheme, IntScheme)
    if tensor.scheme.activations is None:
        return None
    stored = tensor.fields.get("input_scale")
    return InputRounding(scheme=tensor.scheme.activations, scale=None if stored is None else float(stored[0]))
