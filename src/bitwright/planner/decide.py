"""Which candidate is taken, and why: what the handbooks' rules prefer (rules.py), then the fit in memory.

A request that names format or type is obeyed; the rest is decided here. Candidates stand in order of preference, and
the first that fits is taken, so more memory never makes a plan worse.

Not here: the rules (facts/decision_rules.toml), sizes (tensors.py, memory.py), the plan (build.py).
Source of the fit: decision framework handbook, step 1.
"""

from __future__ import annotations

import dataclasses

import msgspec

from bitwright.core.plan import ArtifactFormat, DeviceFacts, ModelFacts, Reason
from bitwright.core.schemes import (
    GROUP_SIZES,
    CodebookScheme,
    FloatScheme,
    GgmlScheme,
    IntScheme,
    MinifloatScheme,
    WeightScheme,
)
from bitwright.facts.compressed_types import COMPRESSED_TYPES, LinearScheme
from bitwright.facts.engine_kernels import platform_of
from bitwright.facts.float_folders import FLOAT_FOLDERS
from bitwright.facts.folder_types import FOLDERS, FolderScheme
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.planner.capability import place_of
from bitwright.planner.engine_names import ROWS
from bitwright.planner.memory import LLAMA_CPP, SGLANG, VLLM
from bitwright.planner.request import Request, float_scheme, linear_scheme
from bitwright.planner.rules import FLOAT, Guidance
from bitwright.planner.tensors import FLOATS, fitting_group_sizes

AMPERE = (8, 0)  # from here on there is bfloat16


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to quantize: a GGUF preset, or a scheme for the linears of blocks, by name where it has one."""

    preset: str | None = None
    scheme: LinearScheme | FolderScheme | FloatScheme | None = None
    name: str | None = None
    folder: ArtifactFormat = "compressed-tensors"  # the format, where it is no preset of GGUF

    @property
    def format(self) -> ArtifactFormat:
        return "gguf" if self.preset is not None else self.folder

    @property
    def engine(self) -> str:
        if self.preset is not None:
            return LLAMA_CPP
        return SGLANG if self.folder == "bitsandbytes" else VLLM

    @property
    def few_bits(self) -> bool:
        """Whether most weights take 5 bits or fewer."""
        if self.preset is not None:
            return self.preset.startswith(("Q2", "Q3", "Q4", "Q5", "IQ4", "MXFP4"))
        if isinstance(self.scheme, IntScheme):
            return self.scheme.bits <= 5
        if isinstance(self.scheme, MinifloatScheme):
            return self.scheme.element == "e2m1"
        return isinstance(self.scheme, CodebookScheme)

    @property
    def label(self) -> str:
        if self.preset is not None:
            return self.preset
        assert self.scheme is not None
        return self.name or self.scheme.label


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Candidates in order of preference, the reasons for that order, and what a person should know.

    `named` says that the person named the one candidate, so that it is planned even where it does not fit.
    """

    candidates: tuple[Candidate, ...]
    named: bool
    reasons: tuple[Reason, ...]
    warnings: tuple[str, ...] = ()


def decide(facts: ModelFacts, device: DeviceFacts, request: Request, rules: Guidance) -> Decision:
    """Order the candidates for a request, as the rules that fired prefer them."""
    if request.preset is not None:
        return _named(Candidate(preset=request.preset))
    if request.format in (*FOLDERS, *FLOAT_FOLDERS, "safetensors"):
        return _named(Candidate(scheme=request.scheme, name=request.name, folder=request.format))
    if isinstance(request.scheme, IntScheme | MinifloatScheme):
        return _named(Candidate(scheme=_with_scale_dtype(request.scheme, facts), name=request.name))
    group, group_reasons = _group_size(facts, request.group_size)
    wanted = [kind for kind in rules.order if (kind in PRESETS) == (rules.format == "gguf")]
    candidates = tuple(candidate_of(kind, facts, group, request.symmetric) for kind in wanted)
    if request.format == "gguf":
        format = Reason(choice="gguf", because="the format was asked for", source="the request")
    else:
        format = rules.reason(rules.rules[0], rules.format)
    first = candidates[0]
    return Decision(
        candidates=candidates, named=False,
        reasons=(format, *rules.of_type(first.label)[:1], *(group_reasons if _has_groups(first) else ())),
        warnings=_warnings(facts, device, rules.format),
    )  # fmt: skip


def candidate_of(kind: str, facts: ModelFacts, group: int | None, symmetric: bool) -> Candidate:
    """The candidate that rules call by a type's first word."""
    if kind in PRESETS:
        return Candidate(preset=kind)
    dtype = FLOATS[facts.dtype]
    if kind == FLOAT:
        return Candidate(scheme=FloatScheme(dtype=dtype), name=dtype.upper(), folder="safetensors")
    if kind in COMPRESSED_TYPES:
        return Candidate(scheme=_with_scale_dtype(COMPRESSED_TYPES[kind], facts), name=kind)
    return Candidate(scheme=_with_scale_dtype(linear_scheme(kind, group, symmetric), facts))


def _has_groups(candidate: Candidate) -> bool:
    return isinstance(candidate.scheme, IntScheme) and candidate.name is None


def _warnings(facts: ModelFacts, device: DeviceFacts, format: ArtifactFormat) -> tuple[str, ...]:
    """What is not known of a device, or must be said to its engine."""
    if device.kind == "cpu" or format == "gguf":
        return ()
    place = place_of(device)
    if isinstance(place, str):
        known = platform_of(ROWS[VLLM], place)
        if known is None:
            return (f"which kernels vLLM has on {device.name} was not looked up",)
        return (f"{device.name}: {known.note}",) if known.note else ()
    if place is not None and place < AMPERE and facts.dtype == "BF16":
        return (f"{device.name} cannot compute in bf16: start vLLM with --dtype half",)
    return ()


def _named(candidate: Candidate) -> Decision:
    reasons = (
        Reason(choice=candidate.format, because=f"{candidate.label} is of this format", source="the request"),
        Reason(choice=candidate.label, because="it was asked for", source="the request"),
    )
    return Decision(candidates=(candidate,), named=True, reasons=reasons)


def _group_size(facts: ModelFacts, wanted: int | None) -> tuple[int | None, tuple[Reason, ...]]:
    """The wanted group size, or the largest that divides every linear, or whole channels."""
    source = "vLLM 0.32, kernels/linear/mixed_precision/marlin.py"
    fitting = fitting_group_sizes(facts)
    if wanted is None or wanted not in GROUP_SIZES:
        return wanted, ()
    if wanted in fitting:
        because = "its scales cost 0.125 bits per weight, and fast kernels take it" if wanted == 128 else "asked for"
        return wanted, (Reason(choice=f"group size {wanted}", because=because, source=source),)
    chosen = next(iter(fitting), None)
    because = f"{wanted} does not divide the inputs of every linear"
    choice = "one scale per channel" if chosen is None else f"group size {chosen}"
    return chosen, (Reason(choice=choice, because=because, source=source),)


def _with_scale_dtype(scheme: LinearScheme, facts: ModelFacts) -> LinearScheme:
    """Scales in the checkpoint's dtype, which is the one that loaders give them."""
    return msgspec.structs.replace(scheme, scale_dtype=FLOATS[facts.dtype])


def named_scheme(facts: ModelFacts, candidate: Candidate, name: str) -> WeightScheme:
    """The scheme that a type names beside the candidate's own, whose group size and symmetry integers take over.

    Raises `UsageError` for a name that the candidate's format does not know.
    """
    if candidate.preset is not None:
        return GgmlScheme(type=name)
    if isinstance(candidate.scheme, FloatScheme):
        return float_scheme(name)
    beside = candidate.scheme if isinstance(candidate.scheme, IntScheme) else IntScheme(bits=4, group_size=128)
    return _with_scale_dtype(linear_scheme(name, beside.group_size, beside.symmetric), facts)
