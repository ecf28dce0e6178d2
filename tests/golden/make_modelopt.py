"""Make modelopt.json: one small matrix as NVIDIA's ModelOpt stores and decodes it, NVFP4 and FP8 per matrix.

Run with an interpreter that has `nvidia-modelopt` (made with 0.47.0, torch 2.13.0, CPU):
    python tests/golden/make_modelopt.py tests/golden/modelopt.json
"""

import json
import sys
from importlib import metadata
from pathlib import Path

import torch
from modelopt.torch.quantization.qtensor.fp8_tensor import FP8QTensor
from modelopt.torch.quantization.qtensor.nvfp4_tensor import NVFP4QTensor

ROWS, COLUMNS, GROUP = 6, 64, 16


def main(path: Path) -> None:
    torch.manual_seed(0)
    weight = torch.randn(ROWS, COLUMNS) * torch.randn(ROWS, 1).exp()
    found: dict[str, object] = {"weight_values": weight.tolist()}
    four, local, factor = NVFP4QTensor.quantize(weight, GROUP)
    decoded = four.dequantize(torch.float32, scale=local, double_scale=factor, block_sizes={-1: GROUP})
    found["NVFP4A16"] = {
        "weight": four._quantized_data.tolist(),
        "weight_scale": local.view(torch.uint8).tolist(),
        "weight_scale_2": float(factor),
        "decoded": decoded.tolist(),
    }
    eight, scale = FP8QTensor.quantize(weight, axis=None)
    found["FP8"] = {
        "weight": eight._quantized_data.view(torch.uint8).tolist(),
        "weight_scale": float(scale),
        "decoded": eight.dequantize(torch.float32, scale=scale).tolist(),
    }
    found["versions"] = {name: metadata.version(name) for name in ("nvidia-modelopt", "torch")}
    path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
