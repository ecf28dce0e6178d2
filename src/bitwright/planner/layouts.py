"""How one replica of a model may be spread over devices, the fewest devices first.

Tensor parallelism goes first, because it shortens every token: it must share out the heads evenly, and stays within a
machine. What is left goes to pipeline stages, one behind the other. llama.cpp puts blocks on its devices in turn.

Totals are powers of two and all devices together: a handful of layouts, whatever the machine.

Not here: replicas (ranking.py), bytes and seconds of a layout (device_weights.py, speed.py).
Source: vLLM 0.32, config/model.py (verify_with_parallel_config): heads divide; production guide, multi-GPU strategies.
"""

from __future__ import annotations

from typing import NamedTuple

from bitwright.core.devices import DeviceFacts
from bitwright.core.plan import ModelFacts
from bitwright.planner.engine_names import LLAMA_CPP

DEVICES_PER_MACHINE = 8  # of servers with fast links among all devices; desks have fewer


class Layout(NamedTuple):
    """Devices of one replica."""

    tensor: int = 1
    pipeline: int = 1

    @property
    def devices(self) -> int:
        return self.tensor * self.pipeline


def layouts(facts: ModelFacts, device: DeviceFacts, engine: str) -> list[Layout]:
    """One for each number of devices that is looked at."""
    powers = [1 << exponent for exponent in range(device.count.bit_length())]
    totals = sorted({*(power for power in powers if power <= device.count), device.count})
    if engine == LLAMA_CPP:
        found = [Layout(1, total) for total in (1, device.count)]
    else:
        found = [Layout(most := _most_tensor_parallel(facts, total), total // most) for total in totals]
    return list(dict.fromkeys(layout for layout in found if layout.pipeline <= facts.layers))


def _most_tensor_parallel(facts: ModelFacts, total: int) -> int:
    """The most devices that may share every matrix, of so many that one replica has."""
    return max(
        ways for ways in range(1, min(total, DEVICES_PER_MACHINE) + 1) if total % ways == 0 and _even(facts, ways)
    )


def _even(facts: ModelFacts, ways: int) -> bool:
    """Whether heads are shared out evenly; keys and values may be copied."""
    return facts.heads % ways == 0 and (facts.kv_heads % ways == 0 or ways % facts.kv_heads == 0)
