"""What a processor is, as far as a plan must know it. The rows are facts/hardware.toml."""

from __future__ import annotations

from typing import Literal

from bitwright.core.documents import Record


class Rates(Record, frozen=True, kw_only=True):
    """Peak dense rates of matrix products, 10^12 operations per second; `None` where the type has no fast path.

    On GeForce cards that of FP32 accumulation, which is what engines use.
    """

    fp16: float | None = None
    bf16: float | None = None
    fp8: float | None = None
    int8: float | None = None
    fp4: float | None = None


class Price(Record, frozen=True, kw_only=True):
    """Dollars per hour of one device on demand, cheapest and dearest provider of the survey."""

    low: float
    high: float
    date: str
    source: str = ""


class DeviceFacts(Record, frozen=True, kw_only=True):
    """A processor that could run the model. `memory_bytes` is that of one device, of which there are `count`."""

    name: str
    kind: Literal["cpu", "gpu"]
    memory_bytes: int
    bandwidth_gb_s: float | None = None
    compute_capability: str | None = None
    count: int = 1
    source: str = ""
    id: str = ""  # of the row, empty for a device that the table does not hold
    vendor: str = ""
    architecture: str = ""  # ampere, hopper, gfx942, gaudi3, apple, avx2, …
    rates: Rates | None = None
    link_gb_s: float | None = None  # between two devices of one machine, both directions together
    price: Price | None = None
    cores: int | None = None  # of a processor: those that this process may use
