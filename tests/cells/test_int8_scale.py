"""The number that vLLM divides the largest magnitude of a token by: docs/decisions/0008 rests on it."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from cells.loaders import VARIABLE, other_python

ASK = """
import json, torch
import vllm._custom_ops as ops
values = torch.randn(6, 256, generator=torch.Generator().manual_seed(0)) * torch.logspace(-2, 2, 6)[:, None]
codes, scales, _ = ops.scaled_int8_quant(values)
print(json.dumps([(values.abs().amax(-1) / scales[:, 0]).tolist(), int(codes.min())]))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)  # an import of vLLM on a busy machine
def test_vllm_divides_by_127() -> None:
    python = other_python()
    if python is None:
        pytest.skip(f"vLLM was not asked: no environment of its own; `make loaders`, or set {VARIABLE}")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [str(python), "-W", "ignore", "-c", ASK], capture_output=True, text=True, env=environment, check=True
    )
    ratios, least = json.loads(done.stdout.splitlines()[-1])
    assert ratios == pytest.approx([127.0] * 6, rel=1e-5)
    assert least >= -127
