"""Seconds of matrices and of attention on a processor: bytes over bandwidth against operations over rate.

A step multiplies the weights with `tokens` columns. A matrix of w bytes a weight takes
    max(w / bandwidth, 2 · tokens · d / rate)
for each weight, so it turns from memory bound to compute bound at tokens = w · rate / (2 · d · bandwidth): `crossover`.
Weights that are widened to 16 bits are multiplied at the rate of 16 bits and pay d >= 1 for the widening. They read a
quarter of the bytes, so they turn early, and behind the crossover of 16 bits over d they are slower than 16 bits.

Two kinds of machines: `Roofline` has a bandwidth and rates, of a datasheet or measured; `Cores` has nanoseconds a
weight, of a table or measured, because what llama.cpp does with a type on a processor has no peak to be held against.

Not here: which end of which factor counts (machines.py), what a request makes of steps (speed.py).
Sources: Williams et al. 2009 (roofline); speed_factors.toml.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from bitwright.core.ranking import Regime
from bitwright.core.schemes import GgmlScheme, WeightScheme
from bitwright.planner.step_weights import Matrices

NANO = 1e-9
FREE_TOKENS = 1.25  # a step on cores is memory bound if it takes this many times what its tokens cost in a prompt


@dataclasses.dataclass(frozen=True, slots=True)
class Seconds:
    """What memory takes, what operations take, and what the slower of both does where they overlap."""

    memory: float
    operations: float
    total: float

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(self.memory + other.memory, self.operations + other.operations, self.total + other.total)


NOTHING = Seconds(0.0, 0.0, 0.0)


def overlapped(memory: float, operations: float) -> Seconds:
    """Both at once."""
    return Seconds(memory, operations, max(memory, operations))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Over the cache: bytes of it that are read, and products of a query with a position (both of q·k and of p·v)."""

    bytes: float
    rows: float  # query positions · cached positions · heads · blocks
    products: float  # the same times head_dim
    prompt: bool  # many query positions share what is read


class Machine(Protocol):
    """What a step is timed on. One device of `ways` that share each matrix."""

    @property
    def block(self) -> float:
        """Seconds that a block takes in each step beside what follows."""
        ...

    @property
    def token(self) -> float:
        """Seconds that a token takes in a block beside matrices and attention, for each of its hidden values."""
        ...

    def product(self, matrices: Matrices, tokens: int) -> Seconds:
        """All matrices once, with `tokens` columns."""
        ...

    def attention(self, attention: Attention) -> Seconds:
        """Queries over the cache."""
        ...

    def sum_over_devices(self, bytes: float) -> float:
        """Seconds until all devices have the sum of their parts."""
        ...

    def regime(self, seconds: Seconds) -> Regime:
        """`compute` where another token in the same step would cost as much again."""
        ...


def crossover(bytes_per_weight: float, rate: float, bandwidth: float, *, inflation: float = 1.0) -> float:
    """Tokens of a step from which a matrix is compute bound. Rate in operations per second, bandwidth in bytes."""
    return bytes_per_weight * rate / (2 * inflation * bandwidth)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a scheme runs: share of the bandwidth, operations per second, and bytes a weight where not as stored."""

    bandwidth: float
    rate: float
    expanded: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Bandwidth in bytes per second and rates in operations per second, as they are reached."""

    bandwidth: float
    rate: float  # in 16 bits
    running: Callable[[WeightScheme], Running]
    block: float
    allreduce: float
    link: float
    ways: int = 1
    cache_ways: int = 1  # devices over which heads of keys and values are shared out
    token: float = 0.0

    def product(self, matrices: Matrices, tokens: int) -> Seconds:
        run = self.running(matrices.scheme)
        size = run.expanded * matrices.weights if run.expanded else matrices.bytes
        read = size * matrices.share_read(tokens) / self.ways
        operations = 2 * tokens * matrices.weights * matrices.share_multiplied / self.ways
        return overlapped(read / (self.bandwidth * run.bandwidth), operations / run.rate)

    def attention(self, attention: Attention) -> Seconds:
        return overlapped(
            attention.bytes / self.cache_ways / self.bandwidth, 4 * attention.products / self.ways / self.rate
        )

    def sum_over_devices(self, bytes: float) -> float:
        if self.ways == 1:
            return 0.0
        return self.allreduce + 2 * (self.ways - 1) / self.ways * bytes / self.link

    def regime(self, seconds: Seconds) -> Regime:
        return "memory" if seconds.memory > seconds.operations else "compute"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Cores:
    """Nanoseconds of all cores together: of a weight by ggml type (one token, each of many), of attention."""

    bandwidth: float  # bytes per second
    costs: Mapping[str, tuple[float, float]]  # the name "" stands for all others
    attention_ns: float
    prompt_attention_ns: float
    block: float
    token: float
    vocab_ns: float = 0.0  # of a token that is chosen

    def product(self, matrices: Matrices, tokens: int) -> Seconds:
        """The first token pays for fetching and unpacking weights; further ones cost what those of a prompt do."""
        label = matrices.scheme.type if isinstance(matrices.scheme, GgmlScheme) else matrices.scheme.label
        decode, prefill = self.costs.get(label, self.costs[""])
        touched = matrices.share_read(tokens)
        read = matrices.bytes * touched / self.bandwidth
        unpacking = NANO * max(decode - prefill, 0.0) * matrices.weights * touched
        operations = NANO * prefill * matrices.weights * matrices.share_multiplied * tokens
        choosing = NANO * self.vocab_ns * matrices.rows * tokens if matrices.head else 0.0
        return Seconds(read + choosing, operations, max(read, unpacking + operations) + choosing)

    def attention(self, attention: Attention) -> Seconds:
        """Queries of a prompt share what is read of the cache; those of several requests share nothing."""
        work = self.prompt_attention_ns * attention.products if attention.prompt else self.attention_ns * attention.rows
        read, work = attention.bytes / self.bandwidth, NANO * work
        return Seconds(read, work if attention.prompt else 0.0, max(read, work))

    def sum_over_devices(self, bytes: float) -> float:
        return 0.0

    def regime(self, seconds: Seconds) -> Regime:
        return "memory" if seconds.total > FREE_TOKENS * seconds.operations else "compute"
