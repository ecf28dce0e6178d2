"""Run a block stage by stage: every window reaches a group of linears before any window passes it.

Quantizing a block with the error of its own earlier linears in view usually takes one forward pass per group. Here each
batch of windows runs in a greenlet that pauses when it reaches the first linear of a group and hands out that linear's
input. When all batches stand at the same group, the caller has seen every input, replaces the group's weights, and lets
them go on. One forward pass in all, and each statistic is taken on the activations that the artifact will produce.

What every paused batch has computed stays in memory. `run_repeated` keeps nothing: it runs every batch from the start
up to each group in turn, with the same results for about twice the work.

Greenlets and not threads: the passes never run at once, and OpenMP keeps one pool of workers per thread.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence

import greenlet
import torch
from torch import nn


@torch.no_grad()
def run_staged(
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    copies: Sequence[nn.Module],
    batches: Sequence[torch.Tensor],
    leaders: Sequence[str],
    observe: Callable[[str, torch.Tensor], None],
    complete: Callable[[str], None],
) -> list[torch.Tensor]:
    """Run `forward` on every batch, each on the next of the block's copies in turn, pausing at each leader.

    `leaders` are submodule names in the order in which the block calls them. For each leader, `observe(leader, input)`
    is called once per batch, in order, then `complete(leader)` once, which may replace weights. Returns the outputs.
    """
    scheduler = greenlet.getcurrent()

    def pause_at(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def pause(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            scheduler.switch((name, args[0]))

        return pause

    handles = [
        block.get_submodule(name).register_forward_pre_hook(pause_at(name)) for block in copies for name in leaders
    ]
    try:
        runs = [greenlet.greenlet(functools.partial(forward, block)) for block in in_turn(copies, batches)]
        for number, leader in enumerate(leaders):
            for run, batch in zip(runs, batches, strict=True):
                reached, inputs = run.switch(batch) if number == 0 else run.switch()
                assert reached == leader, f"the block reached {reached}, expected {leader}"
                observe(leader, inputs)
            complete(leader)
        return [run.switch() for run in runs]
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run_repeated(
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    copies: Sequence[nn.Module],
    batches: Sequence[torch.Tensor],
    leaders: Sequence[str],
    observe: Callable[[str, torch.Tensor], None],
    complete: Callable[[str], None],
) -> Iterator[torch.Tensor]:
    """As `run_staged`, but one batch in memory at a time; outputs come one by one."""

    def stop(_module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        raise _Reached(args[0])

    for leader in leaders:
        handles = [block.get_submodule(leader).register_forward_pre_hook(stop) for block in copies]
        try:
            for block, batch in zip(in_turn(copies, batches), batches, strict=True):
                observe(leader, _input_of(forward, block, batch, leader))
        finally:
            for handle in handles:
                handle.remove()
        complete(leader)
    for block, batch in zip(in_turn(copies, batches), batches, strict=True):
        yield forward(block, batch)


def in_turn(copies: Sequence[nn.Module], batches: Sequence[torch.Tensor]) -> Iterator[nn.Module]:
    """The copy that each batch runs on."""
    return itertools.islice(itertools.cycle(copies), len(batches))


class _Reached(Exception):
    """A batch stands at a leader."""

    def __init__(self, inputs: torch.Tensor) -> None:
        super().__init__()
        self.inputs = inputs


def _input_of(
    forward: Callable[[nn.Module, torch.Tensor], torch.Tensor], block: nn.Module, batch: torch.Tensor, leader: str
) -> torch.Tensor:
    try:
        forward(block, batch)
    except _Reached as reached:
        return reached.inputs
    raise AssertionError(f"the block did not reach {leader}")
