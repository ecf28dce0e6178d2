"""`make_plan`: facts, a device and a request become the one document that everything after obeys.

Not here: the parts: what was asked (request.py), what is preferred (decide.py), tensors, memory, file sizes.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from functools import partial

import msgspec

from bitwright.core.errors import EnvironmentFault, UsageError
from bitwright.core.machine import MachineCalibration
from bitwright.core.plan import (
    MIXED,
    ArtifactFormat,
    Budget,
    CalibrationPlan,
    DeviceFacts,
    Memory,
    Method,
    ModelFacts,
    Override,
    Plan,
    Reason,
    TensorPlan,
)
from bitwright.core.schemes import (
    GGML_FLOATS,
    CodebookScheme,
    FloatScheme,
    GgmlScheme,
    Int8RowScheme,
    IntScheme,
    MinifloatScheme,
    WeightScheme,
)
from bitwright.core.units import format_bytes
from bitwright.facts.compressed_types import COMPRESSED_TYPES, engine_notes
from bitwright.facts.families import FAMILIES
from bitwright.facts.float_folders import FLOAT_FOLDERS, float_folder_notes
from bitwright.facts.folder_types import FOLDERS, folder_notes
from bitwright.facts.packed_tensors import parts_of
from bitwright.facts.stacks import stacked
from bitwright.facts.stored_tensors import safetensors_bytes
from bitwright.planner.answer import Answer, answer, replica_layout, with_answer
from bitwright.planner.capability import capability_of
from bitwright.planner.column_order import with_act_order
from bitwright.planner.decide import Candidate, Decision, decide, named_scheme
from bitwright.planner.engine_fit import kernel_notes
from bitwright.planner.file_size import gguf_file_bytes
from bitwright.planner.kv_cache import with_kv_cache
from bitwright.planner.launch import Serving, launch_line, model_name
from bitwright.planner.memory import VLLM, fills, fits, serving_memory
from bitwright.planner.observers import with_observer
from bitwright.planner.overrides import override_reasons, override_tensors
from bitwright.planner.ranking import Sizes
from bitwright.planner.request import Request, check_request
from bitwright.planner.rules import guidance
from bitwright.planner.tensors import bits_per_weight, float_tensors, gguf_tensors, linear_tensors, with_scheme
from bitwright.planner.vision import KEPT, PartTypes, check_parts, vision_reasons, vision_tensors, vision_warnings
from bitwright.planner.wish import Wish, target_of

SMALL_MODEL = 10**9
FIT_SOURCE = "decision framework handbook, step 1"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sized:
    candidate: Candidate
    tensors: tuple[TensorPlan, ...]
    file_bytes: int
    memory: Memory


def make_plan(
    facts: ModelFacts,
    device: DeviceFacts,
    *,
    use_case: str,
    format: str | None = None, type: str | None = None, method: str | None = None, effort: str = "balanced",
    bits: int | None = None, group_size: int | None = 128, symmetric: bool = True,
    calibration: CalibrationPlan | None = None,
    context: int = 4096,
    act_order: str = "static",
    kv_cache: str | None = None, observer: str | None = None, percentile: float | None = None,
    saturate: bool = False,
    overrides: Sequence[Override] = (),
    parts: PartTypes = KEPT,
    wish: Wish | None = None, machine: MachineCalibration | None = None,
) -> Plan:  # fmt: skip
    """Decide and size everything.

    `bits`, `group_size` (`None`: one scale per channel) and `symmetric` concern compressed-tensors, and giving `bits`
    names that format; `bits=None` is 4 when the format was named, and the use case's choice otherwise. A context longer
    than the model's is cut to it. `overrides` are types by hand (overrides.py), `parts` those of what lies beside a
    decoder (vision.py); `act_order` is GPTQ's (column_order.py), `observer` that of stored scales (observers.py).
    With a `wish` the plan has a target and a ranking, narrowed by what was measured on the `machine` (answer.py).
    Raises `UsageError` on a request that cannot be, `UnsupportedError` on one that this version does not serve, and
    `EnvironmentFault` when nothing that may be chosen fits in memory.
    """
    if context < 1:
        raise UsageError(f"a context of {context} tokens is too short", hint="use --context 4096")
    request = check_request(
        use_case=use_case, format=format, type=type, method=method, effort=effort, bits=bits,
        group_size=group_size, symmetric=symmetric,
    )  # fmt: skip
    context = min(context, facts.context)
    sizes: Sizes = functools.cache(partial(_sizes, facts, tuple(overrides), parts))
    few = facts if overrides else stacked(facts)  # ways are compared with one tensor for all experts of a kind
    quick: Sizes = sizes if few is facts else functools.cache(partial(_sizes, few, (), parts))
    decision, answered = _decided(few, device, request, wish, context, quick, machine)
    chosen, fit = _first_that_fits(facts, device, decision, context, sizes)
    check_parts(facts, chosen.candidate.format, parts, request.use_case)
    how, how_reason = _method(chosen, request)
    plan = Plan(
        model=facts, device=device,
        use_case=request.use_case,
        format=chosen.candidate.format,
        type=chosen.candidate.label + (MIXED if any(entry.by_hand for entry in chosen.tensors) else ""),
        method=how,
        effort=request.effort, saturate=saturate, overrides=tuple(overrides),
        engine=chosen.candidate.engine,
        launch=_launch(facts, chosen.candidate, device, context, answered),
        calibration=calibration or CalibrationPlan(),
        tensors=chosen.tensors,
        file_bytes=chosen.file_bytes,
        bits_per_weight=bits_per_weight(chosen.tensors),
        memory=chosen.memory,
        reasons=(*_reasons(facts, decision, chosen, parts), how_reason, *fit),
        warnings=(*decision.warnings, *_warnings(facts, device, chosen, parts)),
    )  # fmt: skip
    plan = plan if answered is None else with_answer(plan, answered)
    return with_observer(with_kv_cache(with_act_order(plan, act_order), kv_cache), observer, percentile)


def _decided(
    facts: ModelFacts, device: DeviceFacts, request: Request, wish: Wish | None, context: int, sizes: Sizes,
    machine: MachineCalibration | None,
) -> tuple[Decision, Answer | None]:  # fmt: skip
    """What the rules decide, and with a wish the ranking behind it."""
    goal = target_of(wish or Wish(), device, use_case=request.use_case, context=context)
    rules = guidance(facts, goal, "gguf" if request.format == "gguf" else None)
    decision = decide(facts, device, request, rules)
    if wish is None:
        return decision, None
    answered = answer(facts, device, request, decision, wish, goal, rules, sizes, machine=machine)
    return answered.decision, answered


def _reasons(facts: ModelFacts, decision: Decision, chosen: _Sized, parts: PartTypes) -> tuple[Reason, ...]:
    """Why these types: of the whole, of the parts beside a decoder, of single tensors."""
    beside = vision_reasons(facts, chosen.candidate.format, chosen.candidate.label, parts)
    return (*decision.reasons, *beside, *_fallback_reasons(chosen), *override_reasons(chosen.tensors))


def _first_that_fits(
    facts: ModelFacts, device: DeviceFacts, decision: Decision, context: int, sizes: Sizes
) -> tuple[_Sized, tuple[Reason, ...]]:
    """The first candidate that fits and leaves room, and the reason that says so; a named candidate in any case."""
    fitting: _Sized | None = None
    for candidate in decision.candidates:
        sized = _sized(facts, device, candidate, context, sizes)
        if decision.named or not fills(sized.memory.total, sized.memory.available):
            break
        fitting = fitting or (sized if fits(sized.memory) else None)
    else:
        if fitting is None:
            raise EnvironmentFault(
                f"{sized.candidate.label} needs {format_bytes(sized.memory.total)} at a context of {context} tokens, "
                f"{device.name} has {format_bytes(sized.memory.available)} for it",
                hint=_where_it_fits(device, sized.memory),
            )
        sized = fitting
    memory = sized.memory
    because = (
        f"{format_bytes(memory.weights)} of weights, {format_bytes(memory.kv_cache)} of keys and values at "
        f"{context} tokens and up to {format_bytes(memory.overhead)} beside them, of {format_bytes(memory.available)}"
    )
    first = decision.candidates[0]
    if sized.candidate is not first:
        leaving = " with room to spare" if fitting is not None else ""
        because = f"{first.label} does not fit{leaving}; {because}"
    return sized, (Reason(choice=f"{sized.candidate.label} in memory", because=because, source=FIT_SOURCE),)


def _where_it_fits(device: DeviceFacts, memory: Memory) -> str:
    """What to try: of GPUs, how many would do."""
    others = "use a smaller --context, a smaller model, or another --target"
    if device.kind != "gpu" or not memory.available:
        return others
    needed = -(-memory.total * device.count // memory.available)
    return f"{others}; {needed} of this device (--target NAME:{needed}) would have the memory"


def _sized(facts: ModelFacts, device: DeviceFacts, candidate: Candidate, context: int, sizes: Sizes) -> _Sized:
    tensors, file_bytes = sizes(candidate)
    memory = serving_memory(facts, tensors, device, engine=candidate.engine, format=candidate.format, context=context)
    return _Sized(candidate=candidate, tensors=tensors, file_bytes=file_bytes, memory=memory)


def _tensors(
    facts: ModelFacts, candidate: Candidate, overrides: Sequence[Override], parts: PartTypes
) -> tuple[TensorPlan, ...]:
    if candidate.preset is not None:
        tensors = gguf_tensors(facts, candidate.preset)
    else:
        assert candidate.scheme is not None
        if isinstance(candidate.scheme, FloatScheme):
            tensors = float_tensors(facts, candidate.scheme)
        else:
            tensors = (*linear_tensors(facts, candidate.scheme, candidate.format), *vision_tensors(facts, parts))
    return override_tensors(facts, tensors, candidate.format, overrides, partial(named_scheme, facts, candidate))


def _sizes(
    facts: ModelFacts, overrides: Sequence[Override], parts: PartTypes, candidate: Candidate
) -> tuple[tuple[TensorPlan, ...], int]:
    """Tensors of a candidate, and the bytes of its file."""
    tensors = _tensors(facts, candidate, overrides, parts)
    return tensors, _file_bytes(facts, tensors, candidate.format)


def _method(chosen: _Sized, request: Request) -> tuple[Method, Reason]:
    """GPTQ unless something else was asked for, or there is nothing to round."""
    if all(entry.scheme.label in GGML_FLOATS for entry in chosen.tensors):
        because = "values are cast; there are no codes to choose"
        return "rtn", Reason(choice="no quantization", because=because, source="the type")
    if chosen.candidate.format == "bitsandbytes":
        because = "codes and scales are those that bitsandbytes itself would choose, and adapters were trained on"
        return "rtn", Reason(
            choice="bitsandbytes' rounding", because=because, source="Dettmers et al., arXiv:2305.14314"
        )
    if request.method == "smoothquant" and not _rounds_inputs(chosen.candidate):
        rounding = [name for name, scheme in COMPRESSED_TYPES.items() if scheme.activations is not None]
        raise UsageError(
            f"smoothquant makes inputs easier to round, and engines leave the inputs of {chosen.candidate.label} alone",
            hint=f"use --method awq, or one of the types {', '.join(rounding)}",
        )
    if request.method == "zeroquant" and not isinstance(chosen.candidate.scheme, IntScheme):
        raise UsageError(
            f"zeroquant trains weights on grids of integers, and {chosen.candidate.label} is none",
            hint="use --type W8A8, W4A16 or another integer type, or another --method",
        )
    if request.method is not None:
        return request.method, Reason(choice=request.method, because="it was asked for", source="the request")
    because = "errors of each column are fed back into the next ones, at equal bytes and without a slower kernel"
    source = "Frantar et al. 2022, arXiv:2210.17323; decision framework handbook, step 4"
    return "gptq", Reason(choice="gptq", because=because, source=source)


def _rounds_inputs(candidate: Candidate) -> bool:
    scheme = candidate.scheme
    return isinstance(scheme, IntScheme | MinifloatScheme) and scheme.activations is not None


def _launch(
    facts: ModelFacts, candidate: Candidate, device: DeviceFacts, context: int, answered: Answer | None
) -> tuple[str, ...]:
    layout = replica_layout(answered, candidate, device.count)
    serving = Serving(
        engine=candidate.engine, format=candidate.format, name=model_name(facts), device=device, context=context,
        tensor_parallel=layout.tensor, pipeline_parallel=layout.pipeline,
    )  # fmt: skip
    return launch_line(serving)


def _file_bytes(facts: ModelFacts, tensors: tuple[TensorPlan, ...], format: ArtifactFormat) -> int:
    return gguf_file_bytes(facts, tensors) if format == "gguf" else safetensors_bytes(tensors, parts_of(format))


def _fallback_reasons(chosen: _Sized) -> tuple[Reason, ...]:
    """One line for all rows that do not fill whole blocks."""
    count = sum("do not fill blocks" in tensor.reason for tensor in chosen.tensors)
    if not count:
        return ()
    matrices = sum(isinstance(t.scheme, GgmlScheme) and len(t.shape) > 1 for t in chosen.tensors)
    because = f"the rows of {count} of {matrices} matrices do not fill blocks of {chosen.candidate.label}"
    source = "llama.cpp src/llama-quant.cpp, tensor_type_fallback"
    return (Reason(choice="substitute types", because=because, source=source),)


def _warnings(facts: ModelFacts, device: DeviceFacts, chosen: _Sized, parts: PartTypes) -> tuple[str, ...]:
    """What a person should know before an hour of work."""
    found = catalogue_notes(facts)
    candidate, memory = chosen.candidate, chosen.memory
    if not fits(memory):
        found.append(
            f"{candidate.label} needs {format_bytes(memory.total)} to be served, "
            f"{device.name} has {format_bytes(memory.available)} for it"
        )
    if candidate.engine == VLLM and device.kind == "cpu":
        found.append(f"{device.name} is no GPU: vLLM's integer kernels for processors need AVX-512")
    scheme = candidate.scheme
    if isinstance(scheme, IntScheme | CodebookScheme | Int8RowScheme) and candidate.format in FOLDERS:
        found += folder_notes(candidate.format, scheme, facts)
    elif isinstance(scheme, IntScheme | MinifloatScheme):
        found += engine_notes(candidate.label, scheme, capability_of(device)) + kernel_notes(
            candidate.format, candidate.label, scheme, device
        )
        if isinstance(scheme, MinifloatScheme) and candidate.format in FLOAT_FOLDERS:
            found += float_folder_notes(candidate.format, scheme, facts)
    if isinstance(scheme, IntScheme) and scheme.bits == 8 and not scheme.symmetric:
        found.append("asymmetric 8-bit weights have no Marlin kernel in vLLM: expect slow serving")
    if facts.parameters < SMALL_MODEL and candidate.few_bits:
        found.append(
            f"models under a billion parameters lose more at few bits ({facts.parameters / 1e6:.0f} million here): "
            "look at the verdict, and at Q6_K or 8 bits when it fails"
        )
    return (*found, *vision_warnings(facts, candidate.format, parts))


def catalogue_notes(facts: ModelFacts) -> list[str]:
    """What a plan of dimensions leaves open; empty for a checkpoint."""
    if not facts.catalogue:
        return []
    if facts.family not in FAMILIES:
        return [f"{facts.architecture} is not quantized by this version: the plan says what serving it would take"]
    return [f"planned from the catalogue's dimensions: `quantize` needs the checkpoint ({facts.catalogue})"]


def with_types(plan: Plan, schemes: Mapping[str, WeightScheme], budget: Budget) -> Plan:
    """A plan with other types for some tensors: sizes, memory and reasons follow."""
    because = f"the least predicted loss under {format_bytes(budget.file_bytes)}"
    tensors = tuple(
        with_scheme(entry, schemes[entry.name], plan.format, f"byte budget: {because}")
        if entry.name in schemes
        else entry
        for entry in plan.tensors
    )
    reason = Reason(
        choice=f"types under {format_bytes(budget.file_bytes)}",
        because=f"{because}, {budget.predicted_kl:.4f} nats of KL per token predicted",
        source="gradients of the model on the calibration text; docs/methods/budget.md",
    )
    memory = serving_memory(
        plan.model, tensors, plan.device, engine=plan.engine, format=plan.format, context=plan.memory.context
    )
    return msgspec.structs.replace(
        plan,
        type=plan.type if plan.type.endswith(MIXED) else f"{plan.type}{MIXED}",
        budget=budget,
        tensors=tensors,
        file_bytes=_file_bytes(plan.model, tensors, plan.format),
        bits_per_weight=bits_per_weight(tensors),
        memory=memory,
        reasons=(*plan.reasons, reason),
    )
