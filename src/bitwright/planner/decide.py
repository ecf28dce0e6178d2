"""Which candidate is taken, and why: the handbook's two steps, its refinement by use case, then the fit in memory.

    GPU?  yes → H100? yes → FP8 with vLLM; no → 4-bit with vLLM
          no  → GGUF Q4_K_M with llama.cpp
A request that names format or type is obeyed; the rest is decided here. Candidates stand in order of preference, and
the first that fits is taken, so more memory never makes a plan worse.

Not here: sizes (tensors.py, memory.py), the plan (build.py).
Sources: deployment guide §15; decision framework handbook, steps 1 and 3; rules.toml.
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
from bitwright.facts.float_folders import FLOAT_FOLDERS
from bitwright.facts.folder_types import FOLDERS, FolderScheme
from bitwright.facts.rules import gguf_rules, integer_rules
from bitwright.planner.memory import LLAMA_CPP, SGLANG, VLLM
from bitwright.planner.request import Request, float_scheme, linear_scheme
from bitwright.planner.tensors import FLOATS, fitting_group_sizes

TWO_STEPS = "deployment guide §15, the production decision in two steps"
FP8_CAPABILITY = (9, 0)  # Hopper and later: where the two steps say FP8
FP8_TYPE = "FP8_DYNAMIC"
LEAST_CAPABILITY = (7, 5)  # vLLM 0.32 compressed_tensors_wNa16.py, get_min_capability


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


def decide(facts: ModelFacts, device: DeviceFacts, request: Request) -> Decision:
    """Order the candidates for a request."""
    if request.preset is not None:
        return _named(Candidate(preset=request.preset))
    if request.format in (*FOLDERS, *FLOAT_FOLDERS, "safetensors"):
        return _named(Candidate(scheme=request.scheme, name=request.name, folder=request.format))
    if isinstance(request.scheme, IntScheme | MinifloatScheme):
        return _named(Candidate(scheme=_with_scale_dtype(request.scheme, facts), name=request.name))
    if request.format == "gguf":
        reason = Reason(choice="gguf", because="the format was asked for", source="the request")
        return _by_use_case_gguf(request, (reason,))
    if device.kind == "cpu":
        because = f"{device.name} is no GPU that vLLM serves on: llama.cpp serves GGUF from main memory"
        return _by_use_case_gguf(request, (Reason(choice="gguf", because=because, source=TWO_STEPS),))
    capability = capability_of(device)
    if capability is not None and capability < LEAST_CAPABILITY:
        because = f"{device.name} has compute capability {device.compute_capability}, vLLM's integer kernels need 7.5"
        source = "vLLM 0.32, compressed_tensors_wNa16.py"
        return _by_use_case_gguf(request, (Reason(choice="gguf", because=because, source=source),))
    return _on_gpu(facts, device, request, capability)


def _named(candidate: Candidate) -> Decision:
    reasons = (
        Reason(choice=candidate.format, because=f"{candidate.label} is of this format", source="the request"),
        Reason(choice=candidate.label, because="it was asked for", source="the request"),
    )
    return Decision(candidates=(candidate,), named=True, reasons=reasons)


def _by_use_case_gguf(request: Request, reasons: tuple[Reason, ...]) -> Decision:
    rule = gguf_rules()[request.use_case]
    because = f"{request.use_case}: {rule.because}"
    reason = Reason(choice=rule.ladder[0], because=because, source=rule.source)
    candidates = tuple(Candidate(preset=preset) for preset in rule.ladder)
    return Decision(candidates=candidates, named=False, reasons=(*reasons, reason))


def _on_gpu(facts: ModelFacts, device: DeviceFacts, request: Request, capability: tuple[int, int] | None) -> Decision:
    rule = integer_rules()[request.use_case]
    group, group_reasons = _group_size(facts, request.group_size)
    schemes = [IntScheme(bits=bits, group_size=group, symmetric=request.symmetric) for bits in rule.bits]
    candidates = tuple(Candidate(scheme=_with_scale_dtype(scheme, facts)) for scheme in schemes)
    label, chosen_because, chosen_source = candidates[0].label, f"{request.use_case}: {rule.because}", rule.source
    warnings: list[str] = []
    if capability is not None and capability >= FP8_CAPABILITY:
        fp8 = Candidate(scheme=_with_scale_dtype(COMPRESSED_TYPES[FP8_TYPE], facts), name=FP8_TYPE)
        candidates, group_reasons = (fp8, *candidates), ()
        because = f"{device.name} computes in 8-bit floats: FP8 weights and activations in vLLM"
        label, chosen_source = FP8_TYPE, "compressed-tensors 0.20, quant_scheme.py; docs/log.md"
        chosen_because = "one scale per output channel and per token: nothing to calibrate, nothing to saturate"
    else:
        because = f"{device.name} is a GPU: integer weights with 16-bit activations in vLLM"
    if capability is None:
        warnings.append(f"which kernels vLLM has on {device.name} is not known here; rows of engines are NVIDIA's")
    if capability is not None and capability < (8, 0) and facts.dtype == "BF16":
        warnings.append(f"{device.name} cannot compute in bf16: start vLLM with --dtype half")
    reasons = (
        Reason(choice="compressed-tensors", because=because, source=TWO_STEPS),
        Reason(choice=label, because=chosen_because, source=chosen_source),
        *group_reasons,
    )
    return Decision(candidates=candidates, named=False, reasons=reasons, warnings=tuple(warnings))


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


def capability_of(device: DeviceFacts) -> tuple[int, int] | None:
    """NVIDIA's compute capability as two numbers, `None` where there is none."""
    major, dot, minor = (device.compute_capability or "").partition(".")
    return (int(major), int(minor)) if dot and major.isdigit() and minor.isdigit() else None
