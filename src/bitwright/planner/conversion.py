"""The plan of an artifact that is converted and not solved: its tensors are given, the rest is counted.

Not here: which tensors become what (formats/recode.py), solving (build.py).
"""

from __future__ import annotations

from bitwright.core.plan import (
    ArtifactFormat,
    CalibrationPlan,
    DeviceFacts,
    Method,
    ModelFacts,
    Plan,
    Reason,
    TensorPlan,
)
from bitwright.facts.packed_tensors import parts_of
from bitwright.facts.stored_tensors import safetensors_bytes
from bitwright.planner.file_size import gguf_file_bytes
from bitwright.planner.launch import Serving, launch_line, model_name
from bitwright.planner.memory import LLAMA_CPP, VLLM, serving_memory
from bitwright.planner.tensors import bits_per_weight

CONTEXT = 4096


def conversion_plan(
    facts: ModelFacts,
    tensors: tuple[TensorPlan, ...],
    device: DeviceFacts,
    *,
    format: ArtifactFormat,
    type: str,
    source: str,
    method: Method = "rtn",
    calibration: CalibrationPlan | None = None,
) -> Plan:
    """A plan for `tensors`. `method` and `calibration` are those of the artifact that the codes come from."""
    engine = LLAMA_CPP if format == "gguf" else VLLM
    context = min(CONTEXT, facts.context)
    serving = Serving(engine=engine, format=format, name=model_name(facts), device=device, context=context)
    size = gguf_file_bytes(facts, tensors) if format == "gguf" else safetensors_bytes(tensors, parts_of(format))
    return Plan(
        model=facts, device=device, use_case="chat", format=format, type=type, method=method, engine=engine,
        launch=launch_line(serving), calibration=calibration or CalibrationPlan(), tensors=tensors, file_bytes=size,
        bits_per_weight=bits_per_weight(tensors),
        memory=serving_memory(facts, tensors, device, engine=engine, format=format, context=context),
        reasons=(Reason(choice=format, because=f"converted from {source}: the same integers", source="the request"),),
    )  # fmt: skip
