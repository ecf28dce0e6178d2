"""The path of QLoRA: an NF4 base is decoded, the adapter merged into the decoded values, the result quantized anew."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bitwright import api
from bitwright.core.errors import UnsupportedError
from bitwright.core.plan import CalibrationPlan
from bitwright.formats.original import open_original
from bitwright.formats.sniff import gguf_file, open_source
from checkpoints import write_checkpoint
from command_line import text_file

MODULE = "model.layers.1.mlp.down_proj"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    generator = torch.Generator().manual_seed(5)
    tensors = {"A": torch.randn(2, 256, generator=generator), "B": torch.randn(256, 2, generator=generator)}
    save_file(
        {f"base_model.model.{MODULE}.lora_{key}.weight": value for key, value in tensors.items()},
        folder / "adapter_model.safetensors",
    )
    return folder


@pytest.mark.filterwarnings("ignore")
def test_an_nf4_base_is_decoded_merged_and_quantized(tmp_path: Path, adapter: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", hidden=256, heads=4, kv_heads=2, intermediate=256, layers=2)
    text = text_file(tmp_path / "text.txt")
    calibration = CalibrationPlan(source=(str(text),), samples=2, length=32)
    base = tmp_path / "nf4"
    api.quantize(api.plan(folder, type="NF4", calibration=calibration), base)
    with pytest.raises(UnsupportedError, match="already quantized"):
        api.plan(base, type="Q4_K_M")
    decoded, merged = open_source(base), open_original(base, adapter)
    name = f"{MODULE}.weight"
    assert not torch.equal(decoded.load(name), merged.load(name))
    torch.testing.assert_close(merged.load(name) - decoded.load(name).float(), delta(adapter), rtol=1e-4, atol=1e-4)
    api.quantize(api.plan(base, type="Q8_0", method="rtn", lora=adapter, calibration=calibration), tmp_path / "out")
    result = open_source(gguf_file(tmp_path / "out")).load(name)
    error = (result - merged.load(name)).norm() / merged.load(name).norm()
    assert error < 0.01
    judged = [text_file(tmp_path / "other.txt", step=6007)]
    record = api.validate(tmp_path / "out", base, lora=adapter, texts=judged, windows=2, length=32)
    assert record.texts[0].kl_mean.value < 1e-2


def delta(adapter: Path) -> torch.Tensor:
    from safetensors.torch import load_file

    stored = load_file(adapter / "adapter_model.safetensors")
    down, up = (stored[f"base_model.model.{MODULE}.lora_{key}.weight"] for key in ("A", "B"))
    return 2 * up @ down
