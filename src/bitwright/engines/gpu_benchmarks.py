"""How fast a GPU copies memory and multiplies matrices in 16 bits, by torch and the device's own clock.

Not run on any GPU yet: the tests take a stand-in for the device.

Not here: processors (micro_benchmarks.py).
"""

from __future__ import annotations

import time
from typing import Any

from bitwright.core.errors import EnvironmentFault
from bitwright.core.machine import ProductRate
from bitwright.core.units import GIB

COPY_BYTES = GIB
TURNS = 20
PRODUCTS = ((512, 4096, 14336), (4096, 4096, 14336))  # tokens, inputs, outputs


def torch_with_gpu() -> Any:
    """The library. Raises `EnvironmentFault` where it is not installed or sees no device."""
    try:
        import torch
    except ImportError as error:
        raise EnvironmentFault(
            "the GPU is measured by torch, which is not installed", hint="pip install torch, or use --target cpu"
        ) from error
    if not torch.cuda.is_available():
        raise EnvironmentFault(
            f"torch {torch.__version__} sees no GPU", hint="install a build for this GPU, or use --target cpu"
        )
    return torch


def copy_rate(torch: Any, *, size: int = COPY_BYTES, turns: int = TURNS) -> float:
    """10^9 bytes per second, read and written."""
    source = torch.ones(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / _seconds(torch, lambda: target.copy_(source), turns) / 1e9


def product_rates(torch: Any, *, turns: int = TURNS) -> tuple[ProductRate, ...]:
    """Of bfloat16 products, float16 where the device has no bfloat16."""
    dtype, name = (torch.bfloat16, "bf16") if torch.cuda.is_bf16_supported() else (torch.float16, "fp16")
    found = []
    for tokens, inputs, outputs in PRODUCTS:
        left = torch.ones((tokens, inputs), dtype=dtype, device="cuda")
        right = torch.ones((inputs, outputs), dtype=dtype, device="cuda")
        seconds = _seconds(torch, lambda a=left, b=right: torch.matmul(a, b), turns)
        rate = 2 * tokens * inputs * outputs / seconds / 1e12
        found.append(ProductRate(type=name, tokens=tokens, inputs=inputs, outputs=outputs, tera_per_second=rate))
    return tuple(found)


def _seconds(torch: Any, work: Any, turns: int) -> float:
    """Of one of `turns` that run back to back, after three that warm the device."""
    for _ in range(3):
        work()
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(turns):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / turns
