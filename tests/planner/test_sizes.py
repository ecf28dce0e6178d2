"""Predicted sizes against bytes that other libraries' arithmetic and our writers put on disk."""

from __future__ import annotations

import math
from pathlib import Path

import gguf
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitwright.core.plan import DeviceFacts, Plan
from bitwright.core.schemes import GgmlScheme
from bitwright.core.units import GIB
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.gguf_mixtures import PRESETS
from bitwright.facts.model import model_facts
from bitwright.formats.compressed.writer import CompressedTensorsWriter
from bitwright.formats.ggml.file import GgufWriter
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint
from model_shapes import shaped_facts

CPU = DeviceFacts(name="a processor", kind="cpu", memory_bytes=64 * GIB)


@settings(deadline=None)
@given(
    preset=st.sampled_from(PRESETS), family=st.sampled_from(["llama", "qwen2", "qwen3"]), layers=st.integers(1, 12),
    hidden=st.sampled_from([96, 192, 256, 576]), tied=st.booleans(),
)  # fmt: skip
def test_bytes_are_those_of_the_gguf_package(preset: str, family: str, layers: int, hidden: int, tied: bool) -> None:
    facts = shaped_facts(family, layers=layers, hidden=hidden, tied=tied)
    plan = make_plan(facts, CPU, use_case="chat", type=preset)
    for tensor in plan.tensors:
        assert isinstance(tensor.scheme, GgmlScheme)
        elements, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[tensor.scheme.type]]
        assert tensor.bytes == math.prod(tensor.shape) // elements * size
    total = sum(tensor.bytes for tensor in plan.tensors)
    assert plan.bits_per_weight == pytest.approx(8 * total / facts.parameters)
    assert total < plan.file_bytes
    assert total <= plan.memory.weights < 2 * total, "llama.cpp holds some types twice"


@settings(deadline=None)
@given(bits=st.sampled_from([4, 8]), group=st.sampled_from([None, 32, 64, 128]), symmetric=st.booleans())
def test_integer_bytes_follow_from_codes_scales_and_zero_points(bits: int, group: int | None, symmetric: bool) -> None:
    facts = shaped_facts()
    asked = {"format": "compressed-tensors", "bits": bits, "group_size": group, "symmetric": symmetric}
    plan = make_plan(facts, CPU, use_case="chat", **asked)
    for tensor in plan.tensors:
        rows, columns = math.prod(tensor.shape[:-1]), tensor.shape[-1]
        if tensor.scheme.label.startswith("W"):
            groups = columns // group if group else 1
            zeros = 0 if symmetric else rows * groups * bits // 8
            assert tensor.bytes == rows * columns * bits // 8 + 2 * rows * groups + zeros + 16


def written_bytes(plan: Plan, folder: Path) -> int:
    writer = GgufWriter(plan, folder) if plan.format == "gguf" else CompressedTensorsWriter(plan, folder)
    return sum(layout.total_bytes for layout in writer.layouts())


@pytest.mark.parametrize("kind", ["W4A16", "W3A16 g32 asym", "W6A16 channel sym", *COMPRESSED_TYPES])
def test_compressed_tensors_files_are_predicted_to_the_byte(tmp_path: Path, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "model", hidden=256, intermediate=384, layers=2)
    plan = make_plan(model_facts(folder), CPU, use_case="chat", type=kind, format="compressed-tensors")
    assert plan.file_bytes == written_bytes(plan, folder)
    (layout,) = CompressedTensorsWriter(plan, folder).layouts()
    assert sum(tensor.bytes for tensor in plan.tensors) == layout.total_bytes - layout.data_start


@pytest.mark.parametrize("kind", ["Q4_K_M", "F16"])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_file_sizes_are_predicted_within_half_a_percent(tmp_path: Path, family: str, kind: str) -> None:
    folder = write_checkpoint(tmp_path / "model", family, hidden=256, intermediate=1024, layers=4, tied=True)
    plan = make_plan(model_facts(folder), CPU, use_case="chat", type=kind)
    assert plan.file_bytes == pytest.approx(written_bytes(plan, folder), rel=0.005)


def test_a_vocabulary_that_weighs_as_much_as_the_weights_is_predicted_too(tmp_path: Path) -> None:
    folder = write_checkpoint(
        tmp_path / "model", hidden=32, intermediate=32, layers=1, heads=1, kv_heads=1, vocab=20_000
    )
    plan = make_plan(model_facts(folder), CPU, use_case="chat", type="Q8_0")
    assert plan.file_bytes == pytest.approx(written_bytes(plan, folder), rel=0.005)
