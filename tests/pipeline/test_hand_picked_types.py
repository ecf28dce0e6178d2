"""Types by hand, from flags to files: foreign readers find what was asked for, sizes are those that were predicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from bitwright import api
from bitwright.api.budget import share_out
from bitwright.core.errors import MismatchError
from bitwright.core.plan import CalibrationPlan, Override, Plan
from bitwright.formats.sniff import open_source
from checkpoints import write_checkpoint
from command_line import text_file

KEEP_DOWN, EIGHT_UP = Override(pattern="*.1.mlp.down_proj"), Override(pattern="*.0.mlp.up_proj", type="W8A16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("source") / "model"
    return write_checkpoint(made, hidden=256, heads=4, intermediate=512, layers=2)


def planned(folder: Path, tmp_path: Path, overrides: tuple[Override, ...], **request: Any) -> Plan:
    text = text_file(tmp_path / "text.txt")
    calibration = CalibrationPlan(source=(str(text),), samples=4, length=32)
    return api.plan(folder, target="cpu", calibration=calibration, overrides=overrides, **request)


def test_gguf_holds_the_types_that_were_asked_for(folder: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    overrides = (KEEP_DOWN, Override(pattern="lm_head", type="Q8_0"), Override(pattern="*.v_proj", type="IQ4_NL"))
    plan = planned(folder, tmp_path, overrides, type="Q4_K_M")
    record = api.quantize(plan, tmp_path / "out")
    found = {
        tensor.name: tensor.tensor_type.name for tensor in GGUFReader(tmp_path / "out" / record.files[0].name).tensors
    }
    assert found == {entry.stored_name: entry.scheme.label for entry in plan.tensors}
    assert (found["blk.1.ffn_down.weight"], found["output.weight"], found["blk.0.attn_v.weight"]) == (
        "BF16",
        "Q8_0",
        "IQ4_NL",
    )
    name = "model.layers.1.mlp.down_proj.weight"
    kept = open_source(tmp_path / "out" / record.files[0].name).load(name)
    assert torch.equal(kept.float(), open_source(folder).load(name).float())


def test_other_wishes_are_not_mixed_into_a_begun_folder(folder: Path, tmp_path: Path) -> None:
    api.quantize(planned(folder, tmp_path, (KEEP_DOWN,), type="Q4_0", method="rtn"), tmp_path / "out")
    again = planned(folder, tmp_path, (KEEP_DOWN,), type="Q4_0", method="rtn")
    assert api.quantize(again, tmp_path / "out").plan == again
    for other in ((), (EIGHT_UP,), (KEEP_DOWN, KEEP_DOWN)):
        types = tuple(msgspec.structs.replace(wish, type=wish.type and "Q8_0") for wish in other)
        with pytest.raises(MismatchError, match="overrides was --keep"):
            api.quantize(planned(folder, tmp_path, types, type="Q4_0", method="rtn"), tmp_path / "out")


def test_a_budget_leaves_them_alone_and_counts_them(folder: Path, tmp_path: Path) -> None:
    wishes = (KEEP_DOWN, Override(pattern="*.q_proj", type="Q8_0"))
    plan = planned(folder, tmp_path, wishes, type="Q4_K_M")
    shared = share_out(plan, tmp_path / "out", plan.file_bytes)
    found = {entry.name: entry for entry in shared.tensors}
    for entry in plan.tensors:
        if entry.by_hand:
            assert found[entry.name] == entry
    assert plan.file_bytes * 0.95 < shared.file_bytes <= plan.file_bytes
    assert shared.type == "Q4_K_M-mix"
    assert share_out(planned(folder, tmp_path, wishes[:1], type="Q4_K_M"), tmp_path / "out", plan.file_bytes) != shared


@pytest.mark.slow
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_transformers_loads_a_mixed_folder_with_the_same_logits(folder: Path, tmp_path: Path, method: str) -> None:
    wishes = (KEEP_DOWN, EIGHT_UP, Override(pattern="*.1.self_attn.k_proj", type="W8A16 channel sym"))
    plan = planned(folder, tmp_path, wishes, format="compressed-tensors", bits=4, group_size=64, method=method)
    record = api.quantize(plan, tmp_path / "out")
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    check_logits(folder, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("request_", [{"type": "NF4"}, {"type": "LLM.int8"}])
def test_transformers_loads_a_bitsandbytes_folder_with_kept_modules(
    folder: Path, tmp_path: Path, request_: dict[str, Any]
) -> None:
    plan = planned(folder, tmp_path, (KEEP_DOWN,), **request_)
    api.quantize(plan, tmp_path / "out")
    model = loaded(tmp_path / "out")
    name = "model.layers.1.mlp.down_proj"
    assert type(model.get_submodule(name)) is torch.nn.Linear
    assert type(model.get_submodule("model.layers.0.mlp.down_proj")) is not torch.nn.Linear
    assert torch.equal(
        model.get_parameter(f"{name}.weight").float(), open_source(folder).load(f"{name}.weight").float()
    )


@pytest.mark.slow
@pytest.mark.parametrize("format", ["gptq", "awq"])
def test_kept_modules_of_packed_folders_are_read_back(folder: Path, tmp_path: Path, format: str) -> None:
    plan = planned(folder, tmp_path, (Override(pattern="*.1.mlp.up_proj"),), format=format, group_size=64)
    record = api.quantize(plan, tmp_path / "out")
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    config = open_config(tmp_path / "out")
    said = str(config.get("dynamic", config.get("modules_to_not_convert")))
    assert "gate_proj" in said
    assert "up_proj" in said
    assert format == "awq" or "gate_up_proj" in said
    api.convert(tmp_path / "out", "compressed-tensors", tmp_path / "carried")
    if format == "gptq":  # transformers 5.23 does not load packed zero points, which AWQ always has
        check_logits(folder, tmp_path / "carried")


def open_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = msgspec.json.decode((folder / "config.json").read_bytes())["quantization_config"]
    return config


def loaded(folder: Path) -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def check_logits(original: Path, artifact: Path) -> None:
    """What transformers computes from the artifact is what it computes from our decoded values."""
    tokens = torch.arange(24)[None] * 11 % 300
    source, ours = open_source(artifact), loaded(original)
    ours.load_state_dict({name: source.load(name).float() for name in source.names()})
    with torch.no_grad():
        torch.testing.assert_close(loaded(artifact)(tokens).logits, ours(tokens).logits, rtol=1e-3, atol=1e-3)
