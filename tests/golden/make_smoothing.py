"""Make smoothing_llm_compressor.json: scales by llm-compressor's SmoothQuant for a few alphas.

Run with an interpreter that has `llmcompressor` (made with 0.14.0.1, torch 2.13.0, CPU):
    python tests/golden/make_smoothing.py tests/golden/smoothing_llm_compressor.json
It measures inputs by largest less smallest value; each input here goes as far up as down, so that this is twice the
largest magnitude, as it takes twice the largest magnitude of the weights.
"""

import json
import sys
from importlib import metadata
from pathlib import Path

import torch
from llmcompressor.modifiers.transform.smoothquant.base import SmoothQuantModifier

ROWS, COLUMNS, TOKENS = 4, 16, 12

generator = torch.Generator().manual_seed(1)
inputs = torch.randn(TOKENS, COLUMNS, generator=generator) * torch.randn(COLUMNS, generator=generator).exp()
inputs = torch.cat((inputs, -inputs))
layers = [torch.nn.Linear(COLUMNS, rows, bias=False) for rows in (ROWS, ROWS // 2)]
for layer in layers:
    layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
reach = inputs.amax(0) - inputs.amin(0)
scales = {}
for alpha in (0.3, 0.5, 0.8):
    modifier = SmoothQuantModifier(smoothing_strength=alpha)
    scales[str(alpha)] = modifier._calculate_smoothing_scales(layers, reach).tolist()
versions = {name: metadata.version(name) for name in ("llmcompressor", "torch")}
document = {
    "made_with": versions, "inputs": inputs.tolist(), "weights": [layer.weight.tolist() for layer in layers],
    "scales": scales,
}  # fmt: skip
Path(sys.argv[1]).write_text(json.dumps(document) + "\n")
