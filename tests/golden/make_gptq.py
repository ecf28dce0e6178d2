"""Make gptq_llm_compressor.json: codes by llm-compressor's GPTQ on a fixed grid.

Run with an interpreter that has `llmcompressor` (made with 0.14.0.1, compressed-tensors 0.19.0, torch 2.13.0, CPU):
    python tests/golden/make_gptq.py tests/golden/gptq_llm_compressor.json
"""

import json
import sys
from importlib import metadata
from pathlib import Path

import torch
from compressed_tensors.quantization import QuantizationArgs
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

ROWS, COLUMNS, GROUP, SAMPLES, DAMPING = 6, 64, 32, 256, 0.01


def case(actorder: str | None, symmetric: bool, seed: int) -> dict[str, object]:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(COLUMNS, COLUMNS, generator=generator)
    inputs = torch.randn(SAMPLES, COLUMNS, generator=generator) @ mixing / COLUMNS**0.5
    weight = torch.randn(ROWS, COLUMNS, generator=generator)
    gram = inputs.T @ inputs / SAMPLES
    groups = weight.view(ROWS, -1, GROUP)
    if symmetric:
        scale, zero = groups.abs().amax(-1) / 7.5, torch.zeros(ROWS, COLUMNS // GROUP)
    else:
        low, high = groups.amin(-1), groups.amax(-1)
        scale = (high - low) / 15
        zero = (-8 - torch.round(low / scale)).clamp(-8, 7)
    args = QuantizationArgs(
        num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=GROUP, actorder=actorder
    )
    values, _, _ = quantize_weight(
        weight[None].clone(), gram[None].clone(), scale[None], zero[None].to(torch.int8), None, args, percdamp=DAMPING
    )
    codes = torch.round(values[0].view(ROWS, -1, GROUP) / scale[..., None] + zero[..., None]).view(ROWS, COLUMNS)
    return {
        "actorder": actorder, "symmetric": symmetric, "group_size": GROUP, "damping": DAMPING,
        "weight": weight.tolist(), "gram": gram.tolist(), "scale": scale.tolist(), "zero_point": zero.tolist(),
        "codes": codes.to(torch.int).tolist(),
    }  # fmt: skip


cases = [case(None, True, 1), case("static", True, 2), case("static", False, 3)]
versions = {name: metadata.version(name) for name in ("llmcompressor", "compressed-tensors", "torch")}
Path(sys.argv[1]).write_text(json.dumps({"made_with": versions, "cases": cases}) + "\n")
