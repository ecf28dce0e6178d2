"""Which ways to serve a model are looked at: types, engines, devices. What cannot be is said, not passed over.

    a processor, Apple     GGUF in llama.cpp, from Q8_0 down to Q2_K
    a GPU                  floats, FP8, 8 and 4 bits, NVFP4 in vLLM; SGLang, and GGUF in llama.cpp, where asked
A person who names a type, a format or an engine looks at these alone.

Not here: layouts over devices (layouts.py), figures and order (ranking.py), which type is preferred (rules.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from bitwright.core.devices import DeviceFacts
from bitwright.core.errors import UsageError, did_you_mean
from bitwright.core.plan import ModelFacts
from bitwright.core.schemes import FloatScheme, IntScheme, QuantScheme
from bitwright.core.target import Constraints
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.engine_kernels import Kernel, find_kernel
from bitwright.planner.capability import place_of
from bitwright.planner.decide import Candidate, Decision
from bitwright.planner.engine_names import LLAMA_CPP, ROWS
from bitwright.planner.request import Request
from bitwright.planner.tensors import FLOATS, fitting_group_sizes

GGUF_LADDER = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
ROUNDED = ("FP8_DYNAMIC", "W8A8", "NVFP4")
INTEGER_BITS = (8, 4)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A type in an engine, and the kernel that runs it there; `None` for floats."""

    candidate: Candidate
    engine: str
    kernel: Kernel | None

    @property
    def label(self) -> str:
        return f"{self.candidate.label} in {self.engine}"

    @property
    def loads(self) -> bool:
        """Whether the engine takes the file on this device."""
        return self.kernel is None or self.kernel.how not in ("fails", "unknown")


def contenders(
    facts: ModelFacts, device: DeviceFacts, request: Request, decision: Decision, engines: tuple[str, ...] = ()
) -> list[Candidate]:
    """Types, those that the rules prefer first; a named type alone."""
    if decision.named:
        return list(decision.candidates)
    found = [*decision.candidates]
    gguf = request.format == "gguf" or LLAMA_CPP in engines or device.kind == "cpu"
    if gguf or any(candidate.preset is not None for candidate in found):
        found += [Candidate(preset=preset) for preset in GGUF_LADDER]
    if device.kind == "gpu" and request.format in (None, "compressed-tensors"):
        found += _folders(facts, request)
    by_label: dict[str, Candidate] = {}
    for candidate in found:
        by_label.setdefault(candidate.label, candidate)
    return list(by_label.values())


def _folders(facts: ModelFacts, request: Request) -> list[Candidate]:
    """Types of folders for GPUs: floats as they are, 8 bits, 4 bits."""
    groups = fitting_group_sizes(facts)
    group = request.group_size if request.group_size in groups else next(iter(groups), None)
    dtype = FLOATS[facts.dtype]
    integers = [IntScheme(bits=bits, group_size=group, symmetric=request.symmetric) for bits in INTEGER_BITS]
    floats = Candidate(scheme=FloatScheme(dtype=dtype), name=dtype.upper(), folder="safetensors")
    rounded = [Candidate(scheme=COMPRESSED_TYPES[name], name=name) for name in ROUNDED]
    held = [] if request.format is not None else [floats]
    return [*held, *rounded, *(Candidate(scheme=scheme) for scheme in integers)]


def in_engines(
    candidate: Candidate, scheme: QuantScheme | None, device: DeviceFacts, constraints: Constraints,
    shapes: tuple[tuple[int, int], ...],
) -> Iterator[Contender]:  # fmt: skip
    """The engines that are asked for, or the candidate's own. `scheme` is that of most weights, `None` for floats."""
    for name in constraints.engines:
        if name not in ROWS:
            raise UsageError(f"unknown engine `{name}`", hint=did_you_mean(name, [*ROWS]))
    for engine in constraints.engines or (candidate.engine,):
        if (candidate.format == "gguf") != (engine == LLAMA_CPP):
            continue  # the other format is of another engine
        kernel = None
        if scheme is not None:
            kernel = find_kernel(ROWS[engine], candidate.format, scheme, place_of(device), shapes)
        yield Contender(candidate=candidate, engine=engine, kernel=kernel)
