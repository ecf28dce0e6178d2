"""Rates of copies and products, on this processor and on a stand-in for a GPU."""

from __future__ import annotations

import contextlib
import types
from typing import Any

import pytest

from bitwright.core.errors import EnvironmentFault
from bitwright.engines import gpu_benchmarks, micro_benchmarks
from bitwright.engines.micro_benchmarks import best, copy_rate, product_rates


def test_a_copy_has_a_rate() -> None:
    assert 0.01 < copy_rate(2, size=1 << 22, turns=2) < 10_000


def test_products_of_two_shapes() -> None:
    found = product_rates(((1, 64, 64), (32, 64, 128)), turns=2)
    assert [(row.tokens, row.inputs, row.outputs, row.type) for row in found] == [
        (1, 64, 64, "f32"), (32, 64, 128, "f32"),
    ]  # fmt: skip
    assert all(row.tera_per_second > 0 for row in found)


def test_the_best_turn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 10.0, 11.0, 20.0, 29.0])
    monkeypatch.setattr(micro_benchmarks.time, "perf_counter", lambda: next(clock))
    assert best(lambda: None, 3) == 1.0


def test_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(micro_benchmarks.np, "ones", refuse)
    with pytest.raises(EnvironmentFault, match="no memory"):
        copy_rate(1)


class FakeGpu:
    """As much of torch as is asked for. Each turn takes a second of its clock once it is waited for."""

    uint8, bfloat16, float16 = "uint8", "bfloat16", "float16"
    __version__ = "fake"

    def __init__(self, *, present: bool = True, bf16: bool = True) -> None:
        self.done, self.clock = 0, 0.0
        self.cuda = types.SimpleNamespace(
            is_available=lambda: present, is_bf16_supported=lambda: bf16, synchronize=self._wait
        )

    def _wait(self) -> None:
        self.clock, self.done = self.clock + self.done, 0

    def _work(self, *_: object) -> None:
        self.done += 1

    def ones(self, *_: object, **__: object) -> types.SimpleNamespace:
        return types.SimpleNamespace(copy_=self._work)

    empty_like = ones

    def matmul(self, *_: object) -> None:
        self._work()


@pytest.mark.parametrize(("bf16", "name"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_is_waited_for(monkeypatch: pytest.MonkeyPatch, bf16: bool, name: str) -> None:
    device: Any = FakeGpu(bf16=bf16)
    monkeypatch.setattr(gpu_benchmarks.time, "perf_counter", lambda: device.clock)
    assert gpu_benchmarks.copy_rate(device, size=10**9, turns=4) == pytest.approx(2.0)
    found = gpu_benchmarks.product_rates(device, turns=4)
    assert [row.tera_per_second for row in found] == pytest.approx([0.06013, 0.48104], rel=1e-3)
    assert {row.type for row in found} == {name}


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = FakeGpu(present=False)
    monkeypatch.setitem(__import__("sys").modules, "torch", fake)
    with pytest.raises(EnvironmentFault, match="sees no GPU"):
        gpu_benchmarks.torch_with_gpu()
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with contextlib.suppress(ImportError), pytest.raises(EnvironmentFault, match="not installed"):
        gpu_benchmarks.torch_with_gpu()
