"""Types by hand: which tensors a pattern means, who is stronger, what engines fuse, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from bitwright.core.documents import read_document, write_document
from bitwright.core.errors import UnsupportedError, UsageError
from bitwright.core.plan import DeviceFacts, Override, Plan
from bitwright.facts.stored_tensors import safetensors_bytes
from bitwright.planner.build import make_plan
from bitwright.planner.overrides import matches
from model_shapes import shaped_facts

CPU = DeviceFacts(name="a processor", kind="cpu", memory_bytes=2**34)
MODEL = shaped_facts(intermediate=768)
COMPRESSED: dict[str, Any] = {"format": "compressed-tensors", "bits": 4}


def planned(*wishes: str, model: Any = MODEL, **request: Any) -> Plan:
    """A wish is `PATTERN` to keep, or `PATTERN=TYPE`."""
    overrides = []
    for wish in wishes:
        pattern, _, kind = wish.partition("=")
        overrides.append(Override(pattern=pattern, type=kind))
    return make_plan(model, CPU, use_case="chat", overrides=overrides, **(request or {"type": "Q4_K_M"}))


def labels(plan: Plan) -> dict[str, str]:
    return {entry.name.removesuffix(".weight"): entry.scheme.label for entry in plan.tensors}


@pytest.mark.parametrize(
    ("pattern", "name", "meant"),
    [
        ("*.down_proj", "model.layers.0.mlp.down_proj.weight", True),
        ("*.down_proj.weight", "model.layers.0.mlp.down_proj.weight", True),
        ("down_proj", "model.layers.0.mlp.down_proj.weight", False),
        ("lm_head", "lm_head.weight", True),
        ("model.layers.[01].*", "model.layers.1.mlp.down_proj.weight", True),
        ("*.Down_proj", "model.layers.0.mlp.down_proj.weight", False),
        (r"re:.*layers\.0\..*down", "model.layers.0.mlp.down_proj.weight", True),
        ("re:mlp", "model.layers.0.mlp.down_proj.weight", False),
        (r"re:.*_proj$", "model.layers.0.mlp.down_proj.weight", True),
    ],
)
def test_patterns(pattern: str, name: str, meant: bool) -> None:
    assert matches(pattern, name) == meant


@pytest.mark.parametrize("pattern", ["re:model.layers.0", r"re:.*\.(q|k)_proj$", "re:lm_head", "re:.*"])
def test_regular_expressions_mean_what_they_mean_in_compressed_tensors(pattern: str) -> None:
    from compressed_tensors.utils.match import match_name

    for tensor in MODEL.tensors:
        module = tensor.name.removesuffix(".weight")
        assert matches(pattern, module) == match_name(module, pattern)


def test_in_gguf_every_matrix_has_its_own_type() -> None:
    bare, plan = planned(), planned("*.v_proj=Q8_0", "model.layers.1.mlp.*", "lm_head=F16")
    before, after = labels(bare), labels(plan)
    changed = {name: kind for name, kind in after.items() if before[name] != kind}
    assert changed == {
        "lm_head": "F16",
        **{f"model.layers.{layer}.self_attn.v_proj": "Q8_0" for layer in (0, 1)},
        **{f"model.layers.1.mlp.{part}": "BF16" for part in ("gate_proj", "up_proj", "down_proj")},
    }
    assert plan.type == "Q4_K_M-mix"
    assert plan.file_bytes - bare.file_bytes == sum(
        now.bytes - then.bytes for then, now in zip(bare.tensors, plan.tensors, strict=True)
    )
    told = {reason.choice: reason.because for reason in plan.reasons}
    assert told["BF16 for 3 tensors"] == "asked by --keep 'model.layers.1.mlp.*'"
    assert {entry.reason for entry in plan.tensors if entry.scheme.label == "Q8_0"} == {
        "asked by --type '*.v_proj=Q8_0'"
    }


def test_keep_is_stronger_and_the_last_type_counts() -> None:
    found = labels(planned("*.down_proj", "*_proj=Q8_0", "*.up_proj=Q6_K"))
    assert found["model.layers.0.mlp.down_proj"] == "BF16"
    assert found["model.layers.0.mlp.up_proj"] == "Q6_K"
    assert found["model.layers.0.mlp.gate_proj"] == "Q8_0"


def test_a_float_model_may_have_some_quantized() -> None:
    plan = planned("*.down_proj=Q8_0", type="F16")
    assert plan.method == "gptq"
    assert sorted(set(labels(plan).values())) == ["F16", "F32", "Q8_0"]


def test_a_wish_reaches_all_that_engines_run_as_one() -> None:
    plan = planned("*.v_proj=W8A16", "model.layers.1.mlp.up_proj", **COMPRESSED)
    found = labels(plan)
    for part in "qkv":
        assert found[f"model.layers.0.self_attn.{part}_proj"] == "W8A16 g128 sym"
    assert found["model.layers.1.mlp.gate_proj"] == found["model.layers.1.mlp.up_proj"] == "BF16"
    assert found["model.layers.1.mlp.down_proj"] == found["model.layers.0.mlp.gate_proj"] == "W4A16 g128 sym"
    reason = next(entry.reason for entry in plan.tensors if entry.name.endswith("1.mlp.gate_proj.weight"))
    assert reason.startswith("asked by --keep 'model.layers.1.mlp.up_proj' for `model.layers.1.mlp.up_proj.weight`")
    assert plan.file_bytes == safetensors_bytes(plan.tensors)
    assert any("more tensors" in line.choice for line in plan.reasons)


def test_different_wishes_for_one_matrix_of_the_engine_are_refused() -> None:
    with pytest.raises(UsageError, match=r"q_proj.* W8A16 g128 sym .*k_proj.* BF16 .*run them as one"):
        planned("*.q_proj=W8A16", "*.k_proj", **COMPRESSED)


def test_experts_of_a_block_share_a_type() -> None:
    mixture = shaped_facts("mixtral", intermediate=768, experts=4)
    found = labels(planned("*.experts.1.w2=Q8_0", model=mixture))
    kinds = {name: kind for name, kind in found.items() if name.endswith(".w2")}
    assert set(kinds.values()) == {"Q8_0"}
    assert len(kinds) == 8
    assert labels(planned("*.gate", model=mixture)) == labels(planned(model=mixture))  # routers stay F32
    found = labels(planned("*.experts.1.w2", model=mixture, **COMPRESSED))
    assert {kind for name, kind in found.items() if "experts" in name} == {"BF16"}


@pytest.mark.parametrize(
    ("kind", "label"),
    [
        ("W8A16 channel asym", "W8A16 channel asym"),
        ("W2A16", "W2A16 g128 sym"),
        ("FP8_DYNAMIC", "FP8 channel A8 dynamic"),
    ],
)
def test_compressed_tensors_carries_any_of_its_schemes(kind: str, label: str) -> None:
    found = labels(planned(f"*.down_proj={kind}", **COMPRESSED))
    assert found["model.layers.0.mlp.down_proj"] == label
    assert found["model.layers.0.self_attn.o_proj"] == "W4A16 g128 sym"


@pytest.mark.parametrize("request_", [
    {"format": "gptq"}, {"format": "awq"}, {"type": "NF4"}, {"format": "fp8"}, {"format": "modelopt"},
])  # fmt: skip
def test_other_folders_only_keep(request_: dict[str, Any]) -> None:
    bare, plan = planned(**request_), planned("*.down_proj", **request_)
    assert {kind for name, kind in labels(plan).items() if name.endswith("down_proj")} == {"BF16"}
    assert plan.file_bytes > bare.file_bytes
    with pytest.raises(UnsupportedError, match="share one type"):
        planned("*.down_proj=W8A16", **request_)


def test_a_cast_may_spare_any_tensor() -> None:
    found = labels(planned("*norm", "*.v_proj=F32", format="safetensors", type="F16"))
    assert found["model.norm"] == found["model.layers.0.input_layernorm"] == "BF16"
    assert found["model.layers.1.self_attn.v_proj"] == "F32"
    assert found["lm_head"] == found["model.layers.1.self_attn.k_proj"] == "F16"
    with pytest.raises(UsageError, match="holds floats"):
        planned("*.v_proj=Q8_0", format="safetensors", type="F16")


@pytest.mark.parametrize(
    ("wish", "said", "hint"),
    [
        ("down_proj", "no tensor of the model is called so", r"\*\.down_proj"),
        ("*.dwn_proj", "no tensor of the model is called so", "down_proj"),
        ("re:.*(", "is no regular expression", "leave `re:` away"),
        ("*norm=Q8_0", "keep their type, as vectors and routers do", "name matrices"),
        ("*.down_proj=Q4_K_M", "unknown ggml type", "Q4_K"),
    ],
)
def test_what_cannot_be_is_refused(wish: str, said: str, hint: str) -> None:
    with pytest.raises(UsageError, match=said) as refusal:
        planned(wish)
    assert hint.replace("\\", "") in str(refusal.value.hint)


def test_blocks_must_fill_rows() -> None:
    odd = shaped_facts(intermediate=480)
    with pytest.raises(UsageError, match=r"blocks of 256 do not fill the 480 inputs") as refusal:
        planned("*.down_proj=Q6_K", model=odd)
    assert "Q8_0" in str(refusal.value.hint)
    with pytest.raises(UsageError, match="blocks of 128 do not fill the 480 inputs"):
        planned("*.down_proj=W8A16 g128 sym", model=odd, format="compressed-tensors", bits=4, group_size=32)


def test_the_document_carries_the_wishes(tmp_path: Any) -> None:
    plan = planned("*.down_proj", "*.up_proj=Q8_0")
    write_document(plan, tmp_path / "plan.json")
    assert read_document(Plan, tmp_path / "plan.json") == plan
    assert [wish.words for wish in plan.overrides] == ["--keep '*.down_proj'", "--type '*.up_proj=Q8_0'"]
