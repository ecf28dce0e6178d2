"""How fast this processor copies memory and multiplies matrices: seconds of work, the best of several turns.

Threads copy their own parts of arrays that no cache holds; NumPy gives the interpreter lock back while it copies.
Matrix products are NumPy's in float32, with all threads that its library takes. The best turn counts: other processes
only ever make a turn slower.

Not here: GPUs (gpu_benchmarks.py), engines (machine_runs.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from bitwright.core.errors import EnvironmentFault
from bitwright.core.machine import ProductRate
from bitwright.core.units import MIB

COPY_BYTES = 256 * MIB  # of the source, all threads together
TURNS = 5
Shape = tuple[int, int, int]  # tokens, inputs, outputs
PRODUCTS: tuple[Shape, ...] = ((16, 2048, 2048), (512, 2048, 2048))  # a small batch and a piece of a prompt


def copy_rate(threads: int, *, size: int = COPY_BYTES, turns: int = TURNS) -> float:
    """10^9 bytes per second, read and written. Raises `EnvironmentFault` without room for two arrays of `size`."""
    part = size // threads
    try:
        pairs = [(np.ones(part, dtype=np.uint8), np.zeros(part, dtype=np.uint8)) for _ in range(threads)]
    except MemoryError as error:
        raise EnvironmentFault(
            f"no memory for a copy of {size} bytes", hint="end other programs, or raise the control group's limit"
        ) from error
    with ThreadPoolExecutor(threads) as pool:

        def copy_all() -> None:
            for _ in pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs):
                pass

        copy_all()
        return 2 * part * threads / best(copy_all, turns) / 1e9


def product_rates(shapes: Sequence[Shape] = PRODUCTS, *, turns: int = TURNS) -> tuple[ProductRate, ...]:
    """Of float32 products of these shapes."""
    found = []
    for tokens, inputs, outputs in shapes:
        left, right = np.ones((tokens, inputs), dtype=np.float32), np.ones((inputs, outputs), dtype=np.float32)
        out = np.empty((tokens, outputs), dtype=np.float32)

        def multiply(a: np.ndarray = left, b: np.ndarray = right, c: np.ndarray = out) -> None:
            np.matmul(a, b, out=c)

        multiply()
        rate = 2 * tokens * inputs * outputs / best(multiply, turns) / 1e12
        found.append(ProductRate(type="f32", tokens=tokens, inputs=inputs, outputs=outputs, tera_per_second=rate))
    return tuple(found)


def best(work: Callable[[], None], turns: int) -> float:
    """Seconds of the quickest of `turns`."""
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
