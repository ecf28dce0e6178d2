"""Artifacts of the formats gptq, awq and bitsandbytes with random codes; small floats by nearest codes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from packed_models import SMALL, random_qtensor, write_artifact

from bitwright.core.plan import ArtifactFormat, CalibrationPlan, DeviceFacts, Memory, Plan, TensorPlan
from bitwright.core.schemes import CodebookScheme, FloatScheme, Int8RowScheme, IntScheme, MinifloatScheme, QuantScheme
from bitwright.facts.packed_tensors import parts_of
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.writer import CompressedTensorsWriter
from bitwright.formats.packed.awq_writer import AwqWriter
from bitwright.formats.packed.bnb_writer import BitsandbytesWriter
from bitwright.formats.packed.gptq_writer import GptqWriter
from bitwright.formats.scaled.fp8_writer import Fp8Writer
from bitwright.formats.scaled.modelopt_writer import ModelOptWriter
from bitwright.quantize.codebook import quantize_codebook, quantize_int8_rows
from bitwright.quantize.solve import solve
from bitwright.quantize.statistics import Statistics
from bitwright.tensors.qtensor import QTensor

__all__ = ["SMALL", "WRITERS", "build_folder", "int_scheme", "plan_folder"]

WRITERS: dict[str, Any] = {
    "gptq": GptqWriter,
    "gptq_v2": GptqWriter,
    "awq": AwqWriter,
    "bitsandbytes": BitsandbytesWriter,
    "compressed-tensors": CompressedTensorsWriter,
    "fp8": Fp8Writer,
    "modelopt": ModelOptWriter,
}
DTYPES = {"BF16": "bf16", "F16": "f16", "F32": "f32"}


def int_scheme(bits: int, group: int | None, *, symmetric: bool = True, scale: str = "f16") -> IntScheme:
    """Integers with the scales of these formats."""
    return IntScheme(bits=bits, group_size=group, symmetric=symmetric, scale_dtype=scale)


def plan_folder(
    checkpoint: Path, format: ArtifactFormat, schemes: dict[str, QuantScheme] | QuantScheme, *, sized: bool = True
) -> Plan:
    """Linears of the blocks under `schemes` (by name, or one for all), the rest as in the checkpoint."""
    facts = CheckpointSource(checkpoint).facts
    entries = []
    for tensor in facts.tensors:
        scheme: Any = FloatScheme(dtype=DTYPES[tensor.dtype])
        if ".layers." in tensor.name and len(tensor.shape) == 2:
            scheme = schemes.get(tensor.name, scheme) if isinstance(schemes, dict) else schemes
        entry = TensorPlan(
            name=tensor.name, stored_name=tensor.name, shape=tensor.shape, scheme=scheme, bytes=0, reason="test"
        )
        size = sum(part.bytes for part in parts_of(format)(entry)) if sized else 0
        entries.append(msgspec.structs.replace(entry, bytes=size))
    total = sum(entry.bytes for entry in entries)
    return Plan(
        model=facts, device=DeviceFacts(name="test", kind="cpu", memory_bytes=0), use_case="chat", format=format,
        type="test", method="rtn", engine="vllm", launch=(), calibration=CalibrationPlan(), tensors=tuple(entries),
        file_bytes=total, bits_per_weight=8 * total / facts.parameters,
        memory=Memory(weights=total, kv_cache=0, overhead=0, total=total, available=total, context=256), reasons=(),
    )  # fmt: skip


def build_folder(
    checkpoint: Path,
    folder: Path,
    format: ArtifactFormat,
    schemes: dict[str, QuantScheme] | QuantScheme,
    *,
    least_zero: int = 0,
    **options: Any,
) -> tuple[Plan, dict[str, QTensor | NDArray[Any]]]:
    """Checkpoint → artifact; returns the plan and what was written. Zero points are `least_zero` or more, unsigned."""
    plan = plan_folder(checkpoint, format, schemes)
    source = CheckpointSource(checkpoint)
    values: dict[str, Any] = {}
    for seed, entry in enumerate(plan.tensors):
        weight = source.load(entry.name).float().numpy()
        match entry.scheme:
            case IntScheme():
                values[entry.name] = _raised(random_qtensor(*entry.shape, entry.scheme, seed), least_zero)
            case CodebookScheme():
                values[entry.name] = quantize_codebook(weight, entry.scheme)
            case Int8RowScheme():
                values[entry.name] = quantize_int8_rows(weight, entry.scheme)
            case MinifloatScheme():
                values[entry.name] = solve(
                    weight,
                    Statistics(diagonal_I=np.ones(weight.shape[1], dtype=np.float32), peak=3.0),
                    entry.scheme,
                    "rtn",
                    threads=1,
                )[0]
            case _:
                values[entry.name] = weight
    write_artifact(WRITERS[format](plan, checkpoint, **options), plan, values, folder)
    return plan, values


def _raised(value: QTensor, least: int) -> QTensor:
    if "zero_point" not in value.fields:
        return value
    assert isinstance(value.scheme, IntScheme)
    low = least - (1 << (value.scheme.bits - 1))
    zeros = np.maximum(value.fields["zero_point"].astype(np.int16), low).astype(np.int8)
    return QTensor(scheme=value.scheme, codes=value.codes, fields={**value.fields, "zero_point": zeros})


def count_bytes(plan: Plan) -> int:
    """Planned bytes of all tensors."""
    return sum(entry.bytes for entry in plan.tensors if math.prod(entry.shape))
