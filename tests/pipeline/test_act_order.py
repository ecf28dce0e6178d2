"""Act-order with groups: `g_idx` in GPTQ files, decoded by others, carried over or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file

from bitwright import api
from bitwright.core.errors import BitwrightError, UnsupportedError, UsageError
from bitwright.core.plan import CalibrationPlan, DeviceFacts, Plan
from bitwright.core.schemes import IntScheme
from bitwright.facts.model import model_facts
from bitwright.formats.sniff import open_source
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from bitwright.quantize.solve import solve
from bitwright.quantize.statistics import Statistics
from checkpoints import write_checkpoint
from gptq_by_the_book import dequantize_by_the_book

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
DOWN = "model.layers.0.mlp.down_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", hidden=128, intermediate=256, layers=1)


def planned(folder: Path, **choices: Any) -> Plan:
    text = folder.parent / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 60)
    calibration = CalibrationPlan(source=(str(text),), samples=4, length=32)
    return make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=calibration, **choices)


@pytest.fixture(scope="module", params=["gptq", "gptq_v2"])
def artifact(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("artifact") / "out"
    wide = request.param == "gptq"
    plan = planned(
        folder, format=request.param, bits=4, group_size=32 if wide else 64, act_order="group", symmetric=wide
    )
    record = quantize(plan, folder, out)
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    return out


def test_the_order_is_stored_and_decodes_by_the_book(artifact: Path) -> None:
    """The description of the format in Python integers, sharing nothing with the reader."""
    config = json.loads((artifact / "quantize_config.json").read_text())
    assert (config["desc_act"], config["static_groups"]) == (True, False)
    stored, source = load_file(artifact / "model.safetensors"), open_source(artifact)
    for module in (name.removesuffix(".g_idx") for name in stored if name.endswith(".g_idx")):
        groups = stored[f"{module}.g_idx"].numpy()
        assert (np.bincount(groups) == config["group_size"]).all()
        first = config["checkpoint_format"] == "gptq"
        theirs = dequantize_by_the_book(stored, module, 4, first=first)
        np.testing.assert_array_equal(source.load(f"{module}.weight").numpy(), theirs)
    assert (np.diff(stored[f"{DOWN}.g_idx"].numpy()) < 0).any()


def test_conversion_keeps_the_order_or_refuses(artifact: Path, tmp_path: Path) -> None:
    made = json.loads((artifact / "config.json").read_text())["quantization_config"]["checkpoint_format"]
    for format in ("compressed-tensors", "awq", "gguf"):
        with pytest.raises(UnsupportedError, match="columns are grouped in an order of their own"):
            api.convert(artifact, format, tmp_path / format)
    if made == "gptq_v2":  # asymmetric: version 1 may not hold its zero points
        return
    other = "gptq_v2"
    api.convert(artifact, other, tmp_path / other)
    before, after = (load_file(path / "model.safetensors") for path in (artifact, tmp_path / other))
    np.testing.assert_array_equal(before[f"{DOWN}.g_idx"].numpy(), after[f"{DOWN}.g_idx"].numpy())


@pytest.mark.parametrize("method", ["gptq", "rtn"])
def test_an_ordered_matrix_is_a_plain_one_of_ordered_columns(method: Any) -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(size=(400, 64)).astype(np.float32) * rng.permutation(np.geomspace(0.05, 20, 64)).astype(
        np.float32
    )
    gram, weight = inputs.T @ inputs / 400, rng.normal(size=(24, 64)).astype(np.float32)
    plain = IntScheme(bits=3, group_size=32, scale_dtype="f16")
    ordered = IntScheme(bits=3, group_size=32, scale_dtype="f16", ordered=True)
    value, notes = solve(weight, Statistics.of(gram, method), ordered, method, threads=1)
    order = np.argsort(-np.diag(gram).astype(np.float64), kind="stable")
    moved, _ = solve(weight[:, order], Statistics.of(gram[np.ix_(order, order)], method), plain, method, threads=1)
    np.testing.assert_array_equal(value.decode()[:, order], moved.decode())
    np.testing.assert_array_equal(value.fields["group_index"][order], np.arange(64) // 32)
    error = weight - value.decode()
    size = np.einsum("oi,ij,oj->", weight, gram, weight)
    assert notes.output_error == pytest.approx(np.einsum("oi,ij,oj->", error, gram, error) / size, rel=1e-3)


def test_without_statistics_groups_are_runs() -> None:
    weight = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    scheme = IntScheme(bits=4, group_size=32, ordered=True)
    value, _ = solve(weight, None, scheme, "rtn", threads=1)
    np.testing.assert_array_equal(value.fields["group_index"], np.arange(64) // 32)


def test_no_order(folder: Path, tmp_path: Path) -> None:
    orders = [
        planned(folder, format="compressed-tensors", bits=3, group_size=32, act_order=order)
        for order in ("none", "static")
    ]
    records = [quantize(plan, folder, tmp_path / plan.act_order) for plan in orders]
    assert records[0].files[0].sha256 != records[1].files[0].sha256
    arguments = [
        json.loads((tmp_path / plan.act_order / "config.json").read_text())["quantization_config"]["config_groups"][
            "group_0"
        ]
        for plan in orders
    ]
    assert "actorder" not in arguments[0]["weights"]
    assert arguments[1]["weights"]["actorder"] == "static"


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"format": "compressed-tensors", "act_order": "group"}, UnsupportedError, "compressed-tensors has removed it"),
        ({"type": "Q4_0", "act_order": "group"}, UnsupportedError, "it has no place"),
        ({"format": "gptq", "group_size": None, "act_order": "group"}, UsageError, "use groups|no order"),
        ({"format": "gptq", "act_order": "group", "method": "rtn"}, UsageError, "the method is rtn"),
        ({"format": "gptq", "act_order": "gruop"}, UsageError, "unknown act-order"),
    ],
)  # fmt: skip
def test_what_cannot_be(folder: Path, choices: dict[str, Any], error: type[BitwrightError], message: str) -> None:
    with pytest.raises(error, match=message):
        planned(folder, **choices)


def test_the_plan_warns(folder: Path) -> None:
    plan = planned(folder, format="gptq", bits=4, act_order="group", group_size=64)
    assert plan.type == "W4A16 g64 sym act-order"
    assert any("vLLM 0.32 refuses" in warning for warning in plan.warnings)
