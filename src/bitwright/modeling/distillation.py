"""Layer-by-layer distillation: codes of one block, trained until the rounded block repeats what the block did.

The block's own outputs are the teacher; there is no label and no gradient beyond the block. Every linear computes with
rounded weights, scales fixed, and with inputs rounded as the engine rounds them. The gradient passes through the
rounding as if it were not there (straight-through), to weights that are kept in steps of their own scale, so that one
learning rate fits all matrices. What has moved past a rounding boundary at the end has another code.

Weights may end up worse than they began: the caller compares (pipeline/distill.py).

Source: Yao et al. 2022, arXiv:2206.01861 (ZeroQuant, §4.3, layer-by-layer knowledge distillation); straight-through
estimator: Bengio et al. 2013, arXiv:1308.3432. Steps, rate and batch are our own (docs/log.md).
Dimension key: W windows · T tokens per window · H hidden · O outputs · I inputs · G groups along I
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from bitwright.modeling.walk import Linear

STEPS = 60
BATCH_TOKENS = 1024
RATE = 0.02  # of a quantization step, for each step of Adam; falls to zero


@dataclasses.dataclass(slots=True)
class Latent:
    """Weights in steps of their scale, and what they are rounded to: value = scale · (clamp(round(w)) − zero)."""

    scale_OG: torch.Tensor
    zero_OG: torch.Tensor
    low: float
    high: float
    weight_OI: torch.Tensor  # in steps, zero point included: what is rounded

    @staticmethod
    def of(
        weight_OI: torch.Tensor, scale_OG: torch.Tensor, zero_OG: torch.Tensor | None, low: int, high: int
    ) -> Latent:
        """Begin at the weights of a linear on the grid that was found for them. Groups of scale zero stay zero."""
        zero_OG = torch.zeros_like(scale_OG) if zero_OG is None else zero_OG
        per_scale = weight_OI.reshape(*scale_OG.shape, -1)
        steps = torch.where(scale_OG[..., None] == 0, 0.0, per_scale / scale_OG[..., None]) + zero_OG[..., None]
        return Latent(scale_OG, zero_OG, float(low), float(high), steps.reshape(weight_OI.shape).contiguous())

    def codes(self) -> torch.Tensor:
        """[O, I], whole numbers."""
        return self.weight_OI.detach().round().clamp(self.low, self.high)

    def values(self) -> torch.Tensor:
        """[O, I] as readers will see them; gradients pass where a code could still move."""
        inside = self.weight_OI.clamp(self.low, self.high)
        rounded = inside + (inside.detach().round() - inside.detach())
        grouped = rounded.reshape(*self.scale_OG.shape, -1)
        return ((grouped - self.zero_OG[..., None]) * self.scale_OG[..., None]).reshape(self.weight_OI.shape)


def distill(
    forward: Callable[[torch.Tensor], torch.Tensor],
    linears: Mapping[str, Linear],
    latents: Mapping[str, Latent],
    inputs_WTH: torch.Tensor,
    targets_WTH: torch.Tensor,
    *,
    seed: int,
    steps: int = STEPS,
) -> None:
    """Train `latents` in place, by name of linear, on windows drawn by `seed`."""
    weights = [latent.weight_OI.requires_grad_(True) for latent in latents.values()]
    optimizer = torch.optim.Adam(weights, lr=RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(seed)
    batch = max(1, BATCH_TOKENS // inputs_WTH.shape[1])
    size = float(targets_WTH.float().square().mean())
    for name, linear in linears.items():
        linear.trained = latents[name].values
    try:
        with torch.enable_grad():
            for chosen in _draws(len(inputs_WTH), batch, steps, generator):
                error = forward(inputs_WTH[chosen]) - targets_WTH[chosen]
                loss = error.square().mean() / size
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    finally:
        for linear in linears.values():
            linear.trained = None
        for weight in weights:
            weight.requires_grad_(False)


def _draws(windows: int, batch: int, steps: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Windows of every step: all of them once before any comes again."""
    count = min(batch, windows)
    orders: list[torch.Tensor] = []
    while len(orders) * (windows // count) < steps:
        orders.append(torch.randperm(windows, generator=generator)[: windows // count * count].view(-1, count))
    return list(torch.cat(orders)[:steps])


def block_error(
    forward: Callable[[torch.Tensor], torch.Tensor],
    batches: Sequence[torch.Tensor],
    targets: Sequence[torch.Tensor],
) -> tuple[float, list[torch.Tensor]]:
    """Squared error of the block's outputs relative to their size, and the outputs."""
    outputs = [forward(part) for part in batches]
    pairs = list(zip(outputs, targets, strict=True))
    error = sum(float((found - wanted).double().square().sum()) for found, wanted in pairs)
    return error / sum(float(wanted.double().square().sum()) for wanted in targets), outputs


def linears_of(block: nn.Module, names: Sequence[str]) -> dict[str, Linear]:
    """The named linears of a block."""
    found = {}
    for name in names:
        linear = block.get_submodule(name)
        assert isinstance(linear, Linear), name
        found[name] = linear
    return found
