"""Lint finds what is planted, and nothing where there is nothing; our own launch lines are sound."""

from __future__ import annotations

import itertools
from pathlib import Path

import msgspec
import pytest

from bitwright.core.documents import to_json, write_document
from bitwright.core.errors import InputError, UsageError
from bitwright.core.findings import LintRecord
from bitwright.core.plan import DeviceFacts, Plan
from bitwright.core.schemes import ActivationScheme
from bitwright.core.units import GIB
from bitwright.facts.hardware import find_device
from bitwright.facts.lint_rules import lint_rules
from bitwright.planner.build import make_plan
from bitwright.planner.lint.run import lint
from model_shapes import shaped_facts
from planner.lint.planted import PLANTED, pod
from planner.lint.sound import SOUND
from report import sample_records

CPU = DeviceFacts(name="a processor", kind="cpu", memory_bytes=16 * GIB)
MODEL = shaped_facts(hidden=256, intermediate=512)
FROM_PLANS = ("act-order", "per-tensor-activations", "no-calibration", "not-loaded", "fp4-fails")


def found(text: str, target: str | None = None) -> LintRecord:
    return lint(text, "it", find_device(target) if target else None)


def test_there_are_enough_of_both() -> None:
    assert len({rule for rule, _, _ in PLANTED}) >= 30
    assert len(SOUND) >= 30
    assert {rule for rule, _, _ in PLANTED} | {*FROM_PLANS} == lint_rules().keys()


@pytest.mark.parametrize(("rule", "target", "text"), PLANTED, ids=[f"{i}-{row[0]}" for i, row in enumerate(PLANTED)])
def test_what_is_planted_is_found_and_nothing_else(rule: str, target: str | None, text: str) -> None:
    record = found(text, target)
    assert {each.rule for each in record.findings} == {rule}
    for each in record.findings:
        assert each.fix
        assert each.source
        assert "{" not in each.says + each.where


@pytest.mark.parametrize(("target", "text"), SOUND, ids=range(len(SOUND)))
def test_nothing_is_found_in_what_is_sound(target: str | None, text: str) -> None:
    record = found(text, target)
    assert record.findings == ()
    assert record.launches >= 1


PLANS = [
    (target, type)
    for target, type in itertools.product(
        ("rtx4090", "a100-80-sxm", "h100-sxm:2", "b200-sxm", "t4", "l40s"), ("W4A16", "W8A8", "FP8_DYNAMIC", None)
    )
    if not (target in ("rtx4090", "a100-80-sxm", "t4", "l40s") and type == "FP8_DYNAMIC")
    and not (target == "b200-sxm" and type == "W8A8")
]


@pytest.mark.parametrize(("target", "type"), PLANS)
def test_our_own_plans_are_sound(target: str, type: str | None) -> None:
    format = "compressed-tensors" if type else None
    plan = make_plan(MODEL, find_device(target), use_case="chat", type=type, format=format)
    record = found(to_json(plan).decode())
    assert (record.findings, record.launches) == ((), 1)
    artifact = " ".join(plan.launch).format(artifact="out")
    assert found(artifact, target).findings == ()


@pytest.mark.parametrize("format", ["gguf", "gptq", "awq", "fp8", "modelopt"])
def test_our_own_formats_are_sound(format: str) -> None:
    plan = make_plan(MODEL, find_device("b200-sxm"), use_case="chat", format=format)
    assert found(to_json(plan).decode()).findings == ()


def changed(plan: Plan, **fields: object) -> list[str]:
    text = to_json(msgspec.structs.replace(plan, **fields)).decode()
    return [each.rule for each in found(text).findings]


def test_what_was_decided_wrongly_is_found() -> None:
    h100 = find_device("h100-sxm")
    plan = make_plan(MODEL, h100, use_case="chat", type="W8A8", format="compressed-tensors")
    static = ActivationScheme(element="int8", scaling="tensor", dynamic=False)
    tensors = tuple(
        msgspec.structs.replace(entry, scheme=msgspec.structs.replace(entry.scheme, activations=static))
        if getattr(entry.scheme, "activations", None)
        else entry
        for entry in plan.tensors
    )
    assert changed(plan, tensors=tensors) == ["per-tensor-activations"]
    assert changed(plan, calibration=msgspec.structs.replace(plan.calibration, source=())) == ["no-calibration"]
    assert changed(plan, memory=msgspec.structs.replace(plan.memory, available=10**6)) == ["no-memory"]
    little = plan.memory.weights + plan.memory.overhead + 1
    assert changed(plan, memory=msgspec.structs.replace(plan.memory, available=little)) == ["no-memory-for-kv"]
    assert changed(plan, launch=("vllm", "serve", "{artifact}", "--swap-space", "4", "--host", "127.0.0.1")) == [
        "flag-removed"
    ]
    gptq = make_plan(MODEL, h100, use_case="chat", format="gptq", act_order="group")
    assert changed(gptq) == ["act-order"]
    fp8 = make_plan(MODEL, h100, use_case="chat", type="FP8_DYNAMIC")
    assert changed(fp8, device=find_device("v100-sxm2-32"))[0] == "not-loaded"


def test_nvfp4_of_compressed_tensors_in_sglang() -> None:
    plan = make_plan(MODEL, find_device("b200-sxm"), use_case="chat", type="NVFP4", format="compressed-tensors")
    line = ("sglang", "serve", "--model-path", "{artifact}")
    assert changed(plan, engine="sglang", launch=line) == []
    on_h100 = changed(plan, engine="sglang", launch=line, device=find_device("h100-sxm"))
    assert "fp4-fails" in on_h100


def test_an_artifact_is_known_by_its_plan(tmp_path: Path) -> None:
    record = sample_records.quant()
    plan = make_plan(MODEL, find_device("h100-sxm"), use_case="chat", format="gptq", act_order="group")
    write_document(msgspec.structs.replace(record, plan=plan), tmp_path / "quant.json")
    line = f"vllm serve {tmp_path} --host 127.0.0.1 --max-model-len 1000000 --quantization awq"
    rules = {each.rule for each in found(line, "h100-sxm").findings}
    assert rules == {"act-order", "context-too-long", "quantization-mismatch"}


def test_several_launches_are_told_apart() -> None:
    record = found(
        "vllm serve a --host 127.0.0.1 --swap-space 4\n\n# that was\nvllm serve b --host 127.0.0.1 --task embed"
    )
    assert [each.where for each in record.findings] == ["line 1", "line 4"]
    assert record.errors == 2


def test_a_place_in_a_manifest_is_named() -> None:
    (each,) = found(pod(gpus=4)).findings
    assert each.where == "Deployment/llm, container engine"
    assert "asks for 4 GPUs, its engine for 2" in each.says


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("echo hello", UsageError, "no command that starts an engine"),
        ("kind: Deployment\nspec: [", InputError, "not valid YAML"),
        ('{"schema": "bitwright.plan/1"}', InputError, "is no plan"),
        ("{", InputError, "is no plan"),
    ],
)
def test_what_cannot_be_judged(text: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        found(text)


def test_yaml_builds_no_objects() -> None:
    with pytest.raises(InputError, match="not valid YAML"):
        found("kind: !!python/object/apply:os.system ['false']")
