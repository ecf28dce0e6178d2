"""Tiny compressed-tensors artifacts of random codes, for the tests of writer and reader."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.core.plan import CalibrationPlan, DeviceFacts, Memory, ModelFacts, Plan, TensorFacts, TensorPlan
from bitwright.core.schemes import FloatScheme, IntScheme, WeightScheme
from bitwright.formats.checkpoint import CheckpointSource
from bitwright.formats.compressed.writer import CompressedTensorsWriter
from bitwright.formats.layout import ArtifactWriter
from bitwright.tensors.qtensor import QTensor

FLOAT_SCHEMES = {"BF16": "bf16", "F16": "f16", "F32": "f32"}
SMALL = {"hidden": 128, "intermediate": 256, "heads": 4, "kv_heads": 2, "vocab": 320}


def plan_for(facts: ModelFacts, scheme: IntScheme, *, method: str = "gptq", head: WeightScheme | None = None) -> Plan:
    """Every matrix inside the blocks gets `scheme`; the others stay as they are (the head may get its own)."""
    entries = tuple(_entry(tensor, scheme, head) for tensor in facts.tensors)
    total = sum(entry.bytes for entry in entries)
    return Plan(
        model=facts,
        device=DeviceFacts(name="none", kind="cpu", memory_bytes=0),
        use_case="chat",
        format="compressed-tensors",
        type=scheme.label,
        method=method,
        engine="vllm",
        launch=(),
        calibration=CalibrationPlan(),
        tensors=entries,
        file_bytes=total,
        bits_per_weight=8 * total / facts.parameters,
        memory=Memory(weights=total, kv_cache=0, overhead=0, total=total, available=total, context=256),
        reasons=(),
    )


def _entry(tensor: TensorFacts, scheme: IntScheme, head: WeightScheme | None) -> TensorPlan:
    chosen: WeightScheme = FloatScheme(dtype=FLOAT_SCHEMES[tensor.dtype])
    if ".layers." in tensor.name and len(tensor.shape) == 2:
        chosen = scheme
    if tensor.name == "lm_head.weight" and head is not None:
        chosen = head
    rows, columns = tensor.shape if len(tensor.shape) == 2 else (1, math.prod(tensor.shape))
    return TensorPlan(
        name=tensor.name,
        stored_name=tensor.name,
        shape=tensor.shape,
        scheme=chosen,
        bytes=chosen.bytes_for(rows, columns),
        reason="test",
    )


def random_qtensor(rows: int, columns: int, scheme: IntScheme, seed: int) -> QTensor:
    """Codes over the whole range, scales representable in `scale_dtype`, sized so that weights have unit gain."""
    rng = np.random.default_rng(seed)
    half = 1 << (scheme.bits - 1)
    groups = scheme.groups(columns)
    scale = (rng.uniform(0.5, 2.0, (rows, groups)) / half / math.sqrt(columns)).astype(np.float32)
    if scheme.scale_dtype == "bf16":
        scale = (scale.view(np.uint32) & 0xFFFF0000).view(np.float32)
    elif scheme.scale_dtype == "f16":
        scale = scale.astype(np.float16).astype(np.float32)
    fields: dict[str, NDArray[Any]] = {"scale": scale}
    if not scheme.symmetric:
        fields["zero_point"] = rng.integers(-half, half, (rows, groups)).astype(np.int8)
    return QTensor(scheme=scheme, codes=rng.integers(-half, half, (rows, columns)).astype(np.int8), fields=fields)


def random_values(plan: Plan, source: CheckpointSource) -> dict[str, QTensor | NDArray[Any]]:
    """What a quantizer would hand to the writer."""
    return {
        entry.name: random_qtensor(*entry.shape, entry.scheme, seed)
        if isinstance(entry.scheme, IntScheme)
        else source.load(entry.name).float().numpy()
        for seed, entry in enumerate(plan.tensors)
    }


def write_artifact(writer: ArtifactWriter, plan: Plan, values: dict[str, Any], folder: Path) -> Path:
    """Lay everything into files, tensors in reverse order to prove that order is free."""
    folder.mkdir(parents=True, exist_ok=True)
    stored = {k: v for entry in reversed(plan.tensors) for k, v in writer.encode(entry, values[entry.name]).items()}
    for layout in writer.layouts():
        data = bytearray(layout.total_bytes)
        data[: len(layout.header)] = layout.header
        for name, region in layout.regions.items():
            assert len(stored[name]) == region.bytes, name
            data[region.offset : region.offset + region.bytes] = stored[name]
        (folder / layout.name).write_bytes(data)
    for name, content in writer.sidecars().items():
        (folder / name).write_bytes(content)
    return folder


def build_artifact(
    checkpoint: Path, folder: Path, scheme: IntScheme, **options: Any
) -> tuple[Plan, dict[str, QTensor | NDArray[Any]]]:
    """Checkpoint folder → artifact folder; returns the plan and the values that were written."""
    max_shard_bytes = options.pop("max_shard_bytes", 1 << 30)
    source = CheckpointSource(checkpoint)
    plan = plan_for(source.facts, scheme, **options)
    values = random_values(plan, source)
    write_artifact(CompressedTensorsWriter(plan, checkpoint, max_shard_bytes=max_shard_bytes), plan, values, folder)
    return plan, values
