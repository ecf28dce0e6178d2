"""How far the reference lies from itself: below these figures nothing can be measured, or nothing matters.

- the measurement floor: float32 against float32 whose sums run in another order (every product in two halves of its
  inputs, windows one at a time). A KL near it is rounding of the measurement.
- the self-noise floor: bfloat16 throughout, as checkpoints are served, against float32. An artifact below it differs
  from the original by less than two engines that serve the original do (exllamav3's and mlx-kld's practice; they add
  noise or store fewer digits instead of running the other arithmetic).

A few windows suffice: both are means over hundreds of tokens, and only their size matters. One block is loaded at a
time, for all three streams. Not here: where floors are kept (api/proof.py).

Dimension key: W windows, T positions, H hidden, O outputs, I inputs
"""

from __future__ import annotations

import torch
from torch import nn

from bitwright.core.protocols import SILENT, Progress, WeightSource
from bitwright.core.records import Floors
from bitwright.evaluation.divergence import Measures, compare
from bitwright.evaluation.lockstep import first_scored
from bitwright.modeling.walk import Linear, Walker
from bitwright.tensors.devices import CPU, Devices
from bitwright.tensors.products import linear

WINDOWS, LENGTH = 2, 256


class HalvedLinear(Linear):
    """The same product as the sum of two: over the first half of the inputs, and over the others."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """[..., I] → [..., O]."""
        if self.rounding is not None:
            return super().forward(input)
        half = self.in_features // 2
        second = linear(input[..., half:].contiguous(), self.weight[:, half:].contiguous(), self.bias)
        return linear(input[..., :half].contiguous(), self.weight[:, :half].contiguous()) + second


@torch.no_grad()
def measure_floors(
    source: WeightSource, tokens_WT: torch.Tensor, *, devices: Devices = (CPU,), progress: Progress = SILENT
) -> Floors:
    """Both floors of the model on the beginnings of the first windows of int64 `tokens_WT`."""
    tokens = tokens_WT[:WINDOWS, :LENGTH]
    walker = Walker(source, devices=devices[:1])
    plain = walker.embed(tokens)
    halved, narrow = plain.clone(), plain.bfloat16()
    progress.start("measuring the floors", walker.layers, "blocks")
    try:
        for index in range(walker.layers):
            block = walker.copies(walker.load_block(index))[0]
            plain = walker.forward(block, plain).cpu()
            _set_class(block, Linear, HalvedLinear)
            halved = torch.cat([walker.forward(block, window).cpu() for window in torch.split(halved, 1)])
            _set_class(block, HalvedLinear, Linear)
            narrow = walker.forward(block.bfloat16(), narrow).cpu()
            progress.advance()
    finally:
        progress.stop()
    order, rounded = _against(walker, tokens, plain, halved, narrow)
    return Floors(
        tokens=order.kl.size,
        order_kl=float(order.kl.mean()),
        order_flips=_flips(order),
        bfloat16_kl=float(rounded.kl.mean()),
        bfloat16_flips=_flips(rounded),
    )


def _against(
    walker: Walker, tokens_WT: torch.Tensor, plain: torch.Tensor, halved: torch.Tensor, narrow: torch.Tensor
) -> tuple[Measures, Measures]:
    """Predictions of the scored positions from the three final streams [W, T, H]."""
    scored = slice(first_scored(tokens_WT.shape[1]), tokens_WT.shape[1] - 1)
    following = tokens_WT[:, scored.start + 1 :].flatten()
    expected = walker.logits(plain[:, scored].flatten(0, 1))
    other = walker.logits(halved[:, scored].flatten(0, 1))
    rounded = walker.logits(narrow[:, scored].flatten(0, 1).float()).bfloat16()  # engines round logits too
    return compare(expected, other, following), compare(expected, rounded.float(), following)


def _set_class(block: nn.Module, old: type[nn.Module], new: type[nn.Module]) -> None:
    for module in block.modules():
        if type(module) is old:
            module.__class__ = new


def _flips(measures: Measures) -> float:
    return float((measures.top_reference != measures.top_artifact).mean())
