"""Methods × formats on a tiny random model: written by us, decoded by the readers, loaded by transformers where it can.

The table of cells is data, so that a format or a method that is added without a row is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bitwright import api
from bitwright.core.plan import CalibrationPlan, DeviceFacts
from bitwright.facts.model import model_facts
from bitwright.formats.sniff import open_source
from bitwright.pipeline.run import quantize
from bitwright.planner.build import make_plan
from checkpoints import write_checkpoint

pytestmark = pytest.mark.slow

DEVICE = DeviceFacts(name="test", kind="cpu", memory_bytes=2**34)
INTEGERS = [
    {"format": format, "bits": bits, "group_size": group, "symmetric": symmetric}
    for format, widths in (("gptq", (2, 3, 4, 8)), ("gptq_v2", (2, 3, 4, 8)), ("awq", (4,)))
    for bits in widths
    for group in ((32, 64, None) if format != "awq" else (32, 64))
    for symmetric in ((True, False) if format == "gptq" else (False,))
]
FITTED = [cell | {"method": method} for cell in INTEGERS for method in ("rtn", "gptq", "awq")]
WHOLE = [{"type": type} for type in ("NF4", "NF4_DQ", "FP4", "FP4_DQ", "LLM.int8")]
LOADED = ("bitsandbytes",)  # formats that transformers loads here without packages that clash with ours


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "model", hidden=128, intermediate=256, layers=2)


def logits(path: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return torch.as_tensor(model(torch.arange(24)[None] * 11 % 300).logits)


@pytest.mark.parametrize("cell", [*FITTED, *WHOLE], ids=lambda cell: "-".join(map(str, cell.values())))
def test_a_cell(folder: Path, tmp_path: Path, cell: dict[str, Any]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 120)
    calibration = CalibrationPlan(source=(str(text),), samples=4, length=32)
    plan = make_plan(model_facts(folder), DEVICE, use_case="chat", calibration=calibration, **cell)
    record = quantize(plan, folder, tmp_path / "out")
    assert sum(file.bytes for file in record.files) == plan.file_bytes
    source = open_source(tmp_path / "out")
    assert all(np.isfinite(source.load(name).float().numpy()).all() for name in source.names())
    worst = max(tensor.weight_error for tensor in record.tensors)
    bits = cell.get("bits", 4)
    assert worst < {2: 0.9, 3: 0.4, 4: 0.1, 8: 0.01}[bits], worst
    if plan.format in LOADED:
        theirs, ours = logits(tmp_path / "out"), _decoded_logits(folder, tmp_path / "out")
        limit = 0.02 if cell["type"] == "LLM.int8" else 0.002  # bfloat16 products; LLM.int8 rounds inputs too
        assert float((theirs - ours).square().mean() / ours.square().mean()) < limit
        return
    # integers have a loader that is not ours once they are compressed-tensors with the same codes
    api.convert(tmp_path / "out", "compressed-tensors", tmp_path / "carried")


def _decoded_logits(folder: Path, artifact: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    source = open_source(artifact)
    state = {name: source.load(name).float() for name in source.names()}
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        return torch.as_tensor(model(torch.arange(24)[None] * 11 % 300).logits)
