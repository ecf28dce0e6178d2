"""The experts of a block, one linear after another, as checkpoints store them.

transformers 5 holds all experts of a block as two arrays of three dimensions. Here every expert has three linears under
the checkpoint's names, so that statistics can be taken and weights replaced matrix by matrix. Every expert is called in
every pass, one after another and also without a token, so that a staged run (stages.py) meets all of them in one order.

Dimension key: N tokens · H hidden · K experts of one token · E experts
"""

from __future__ import annotations

import torch
from torch import nn

from bitwright.facts.families import ExpertNames


class Expert(nn.Module):
    """One gated feed-forward part."""

    def __init__(self, names: ExpertNames, hidden: int, width: int, activation: nn.Module) -> None:
        super().__init__()
        self._gate, self._up, self._down = names.gate, names.up, names.down
        self.add_module(names.gate, nn.Linear(hidden, width, bias=False))
        self.add_module(names.up, nn.Linear(hidden, width, bias=False))
        self.add_module(names.down, nn.Linear(width, hidden, bias=False))
        self.activation = activation

    def inner(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """What enters the down projection."""
        gated = self.activation(self.get_submodule(self._gate)(hidden_NH))
        inner: torch.Tensor = gated * self.get_submodule(self._up)(hidden_NH)
        return inner

    def forward(self, hidden_NH: torch.Tensor) -> torch.Tensor:
        """[N, H] → [N, H]."""
        result: torch.Tensor = self.get_submodule(self._down)(self.inner(hidden_NH))
        return result


class Experts(nn.ModuleList):
    """All experts of a block; takes the place of transformers' module of the same task."""

    def forward(self, hidden_NH: torch.Tensor, chosen_NK: torch.Tensor, shares_NK: torch.Tensor) -> torch.Tensor:
        """Every token's experts, weighted by the router's shares: [N, H] → [N, H]."""
        total_NH = torch.zeros_like(hidden_NH)
        for number, expert in enumerate(self):
            tokens, places = torch.where(chosen_NK == number)
            outputs = expert(hidden_NH[tokens]) * shares_NK[tokens, places, None]
            total_NH = total_NH.index_add(0, tokens, outputs.to(total_NH.dtype))
        return total_NH


def separate_experts(layer: nn.Module, names: ExpertNames) -> None:
    """Give the block on the meta device its experts one by one, and its feed-forward part the checkpoint's name."""
    block = layer.get_submodule("mlp")
    if not hasattr(block, "experts"):
        return  # a dense block between others
    fused = block.get_submodule("experts")
    count, hidden, width = fused.get_parameter("down_proj").shape
    activation = fused.get_submodule("act_fn")
    with torch.device("meta"):
        experts = Experts(Expert(names, hidden, width, activation) for _ in range(count))
    block.add_module("experts", experts)
    if names.block != "mlp":
        del layer._modules["mlp"]
        layer.add_module(names.block, block)
        layer.__dict__["mlp"] = block  # what the block's own forward pass calls it
