"""Plans of vision-language models: what each part becomes, why, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from bitwright.core.errors import UnsupportedError, UsageError
from bitwright.core.plan import DeviceFacts, ModelFacts, Override, Plan, TensorFacts, VisionFacts
from bitwright.core.schemes import FloatScheme, IntScheme
from bitwright.core.units import GIB
from bitwright.planner.build import make_plan
from bitwright.planner.vision import PartTypes, part_types
from model_shapes import shaped_facts

CPU = DeviceFacts(name="a processor", kind="cpu", memory_bytes=16 * GIB)
TOWER = {
    "visual.patch_embed.proj.weight": (64, 3, 2, 8, 8),
    "visual.blocks.0.attn.qkv.weight": (192, 64),
    "visual.blocks.0.attn.qkv.bias": (192,),
}
PROJECTOR = {"visual.merger.mlp.0.weight": (256, 256), "visual.merger.ln_q.weight": (64,)}


def vision_facts() -> ModelFacts:
    """A Qwen2-VL whose decoder has the stored names of transformers 5."""
    plain = shaped_facts("qwen2")
    held = tuple(
        msgspec.structs.replace(tensor, stored=tensor.name.replace("model.", "model.language_model."))
        for tensor in plain.tensors
    )

    def part(shapes: dict[str, tuple[int, ...]]) -> tuple[TensorFacts, ...]:
        return tuple(
            TensorFacts(name=name, shape=shape, dtype="BF16", file="model.safetensors", bytes=2 * math.prod(shape))
            for name, shape in shapes.items()
        )

    return msgspec.structs.replace(
        plain,
        architecture="Qwen2VLForConditionalGeneration",
        tensors=held,
        vision=VisionFacts(tower=part(TOWER), projector=part(PROJECTOR)),
    )


MODEL = vision_facts()


def plan_of(vision: str | None = None, projector: str | None = None, *, few_bits: bool = False, **asked: Any) -> Plan:
    parts = part_types(vision, projector, few_bits=few_bits)
    return make_plan(
        MODEL, CPU, parts=parts, **({"use_case": "vlm", "format": "compressed-tensors", "bits": 4} | asked)
    )


def test_tower_and_projector_keep_their_floats_and_the_plan_says_why() -> None:
    plan = plan_of()
    entries = {entry.name: entry for entry in plan.tensors}
    assert all(entries[name].scheme == FloatScheme(dtype="bf16") for name in TOWER | PROJECTOR)
    linear = entries["model.layers.0.mlp.up_proj.weight"]
    assert linear.stored_name == "model.language_model.layers.0.mlp.up_proj.weight"
    assert linear.scheme == IntScheme(bits=4, group_size=128)
    said = {reason.choice: reason for reason in plan.reasons}
    for choice in ("decoder W4A16 g128 sym", "vision tower BF16", "projector BF16"):
        assert said[choice].source == "deployment guide §08"
    assert "outliers" in said["vision tower BF16"].because
    assert plan.file_bytes > sum(entry.bytes for entry in plan.tensors)


def test_eight_bits_per_channel_for_linears_alone() -> None:
    plan = plan_of(vision="int8", projector="int8")
    eight = {entry.name for entry in plan.tensors if entry.scheme == IntScheme(bits=8, group_size=None)}
    assert eight == {"visual.blocks.0.attn.qkv.weight", "visual.merger.mlp.0.weight"}
    assert {"vision tower INT8", "projector INT8"} <= {reason.choice for reason in plan.reasons}
    assert {reason.choice for reason in plan_of(vision="float").reasons} == {
        reason.choice for reason in plan_of().reasons
    }


@pytest.mark.parametrize("flag", ["vision", "projector"])
def test_fewer_than_eight_bits_have_to_be_forced(flag: str) -> None:
    asked: dict[str, Any] = {flag: "int4"}
    with pytest.raises(UsageError, match="fewer than 8 bits") as caught:
        plan_of(**asked)
    assert "--force" in str(caught.value.hint)
    plan = plan_of(**asked, few_bits=True)
    assert any(entry.scheme == IntScheme(bits=4, group_size=64) for entry in plan.tensors) == (flag == "vision")
    assert any("fewer than 8 bits" in warning for warning in plan.warnings)
    with pytest.raises(UsageError, match="keep their type"):
        plan_of(overrides=[Override(pattern="visual.*", type="W4A16")])


def test_an_unknown_type_is_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="int9") as caught:
        plan_of(vision="int9")
    assert "int8" in str(caught.value.hint)


def test_a_gguf_file_is_the_decoder_alone_and_says_so() -> None:
    plan = make_plan(MODEL, CPU, use_case="vlm")
    assert plan.format == "gguf"
    assert {entry.name for entry in plan.tensors} == {tensor.name for tensor in MODEL.tensors}
    assert any("mmproj" in warning for warning in plan.warnings)
    assert "decoder alone" in {reason.choice for reason in plan.reasons}
    with pytest.raises(UsageError, match="gguf"):
        plan_of("int8", format=None, bits=None)


@pytest.mark.parametrize("format", ["gptq", "awq", "bitsandbytes"])
def test_formats_without_a_place_for_the_tower_are_refused(format: str) -> None:
    with pytest.raises(UnsupportedError, match="vision-language"):
        make_plan(MODEL, CPU, use_case="chat", format=format, symmetric=format != "awq")


def test_a_cast_takes_the_tower_along() -> None:
    plan = make_plan(MODEL, CPU, use_case="chat", format="safetensors", type="F16")
    assert {entry.scheme for entry in plan.tensors} == {FloatScheme(dtype="f16")}
    assert len(plan.tensors) == len(MODEL.all_tensors)


def test_a_language_model_has_no_tower() -> None:
    plain = shaped_facts()
    with pytest.raises(UsageError, match="--vision"):
        make_plan(plain, CPU, use_case="chat", format="compressed-tensors", parts=PartTypes(tower="int8"))
    with pytest.raises(UsageError, match="--use-case vlm"):
        make_plan(plain, CPU, use_case="vlm")
