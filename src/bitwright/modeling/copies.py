"""What stands for one block on every device.

The block that is solved lies in the memory of the CPU. Batch i of a stage runs on copy i mod n, so that which device
sees what depends on nothing but their number; when a group has been solved, its new weights go to every copy.
torch starts work on a device and goes on: copies compute beside each other although batches are dealt by one thread.

Where the one device is the CPU, the block stands for itself.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Sequence

import torch
from torch import nn


def copies_of(block: nn.Module, devices: Sequence[torch.device]) -> list[nn.Module]:
    """One block per device, in their order."""
    return [block if device.type == "cpu" else on_device(block, device) for device in devices]


def on_device(block: nn.Module, device: torch.device) -> nn.Module:
    """A copy whose tensors lie on `device`; nothing is copied in the memory where they lie now."""
    placed: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach().to(device), requires_grad=False)
        for parameter in block.parameters()
    }
    placed |= {id(buffer): buffer.to(device) for buffer in block.buffers()}
    return copy.deepcopy(block, placed)


def device_of(block: nn.Module) -> torch.device:
    """Where a block, or a part of one, computes."""
    return next(itertools.chain(block.parameters(), block.buffers())).device


@torch.no_grad()
def renew(copies: Iterable[nn.Module], block: nn.Module, modules: Iterable[str]) -> None:
    """Give the named modules of all copies the weights that they have in `block`."""
    modules = tuple(modules)
    for standing in copies:
        if standing is block:
            continue
        for module in modules:
            pairs = zip(
                standing.get_submodule(module).parameters(), block.get_submodule(module).parameters(), strict=True
            )
            for theirs, ours in pairs:
                theirs.copy_(ours)
