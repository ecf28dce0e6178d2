"""The handbooks' rules, from decision_rules.toml: what is preferred when, and why.

Not here: whether a rule fires (planner/rules.py), where answers differ from the handbooks' (corrections.py).
"""

from __future__ import annotations

import functools
from typing import Literal

from bitwright.core.choices import ArtifactFormat, UseCase
from bitwright.core.documents import Record
from bitwright.core.ranking import Regime
from bitwright.facts.rows import read_rows

FILE = "decision_rules.toml"
Setting = Literal[
    "fp8-cache", "full-cache", "speculation", "prefix-caching", "pipeline", "floor-first", "headroom", "slow-links"
]


class When(Record, frozen=True, kw_only=True):
    """All that is named must hold. Capabilities are NVIDIA's; other devices have none and fail every test of them."""

    kind: Literal["cpu", "gpu"] | None = None
    format: ArtifactFormat | None = None  # that types are looked for in
    capability_from: str | None = None
    capability_below: str | None = None
    architectures: tuple[str, ...] = ()  # other makers' (facts/engine_kernels.toml)
    computes: Literal["fp8", "int8"] | None = None  # products of this type, faster than in 16 bits, and in vLLM
    devices_from: int | None = None
    link_below: float | None = None  # GB/s between two devices, both directions
    use_cases: tuple[UseCase, ...] = ()
    regime: Regime | None = None  # of 4-bit weights at the load's requests (planner/rules.py)
    concurrency_to: int | None = None
    context_from: int | None = None  # tokens of a usual request, first to last
    output_from: int | None = None  # tokens of a usual answer
    shared_prefix: bool = False
    ttft_below: float | None = None  # the limit that was asked for, seconds
    latency_critical: bool = False  # a limit on latency or speed was asked for, or the aim is latency
    floor_to: float | None = None  # rise of perplexity that is tolerable
    billions_from: float | None = None  # parameters
    billions_below: float | None = None
    adapter: bool = False
    families_not: tuple[str, ...] = ()


class Rule(Record, frozen=True, kw_only=True):
    """One row; the head of the file says what each field does."""

    id: str
    when: When = When()
    takes: ArtifactFormat | None = None
    prefer: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    adds: tuple[Setting, ...] = ()
    because: str
    source: str
    resolution: str = ""


class Draft(Record, frozen=True, kw_only=True):
    """A small model that drafts for large ones of a family with the same vocabulary."""

    family: str
    vocab: int
    model: str  # id in the catalogue
    billions: float
    hub: str


@functools.cache
def decision_rules() -> tuple[Rule, ...]:
    """All rules, strongest first."""
    return read_rows(FILE, "rule", Rule)


@functools.cache
def drafts() -> tuple[Draft, ...]:
    """Models that draft for others."""
    return read_rows(FILE, "draft", Draft)
