"""Which kernel runs what: each row of the table is met by some scheme, and the rules of the engines are held."""

from __future__ import annotations

from typing import get_args

import pytest

from bitwright.core.plan import ArtifactFormat
from bitwright.core.schemes import (
    ActivationScheme,
    CodebookScheme,
    GgmlScheme,
    Int8RowScheme,
    IntScheme,
    MinifloatScheme,
    QuantScheme,
)
from bitwright.facts.compressed_types import COMPRESSED_TYPES
from bitwright.facts.engine_kernels import engines_of, find_kernel, kernels, otherwise

VLLM, SGLANG = "vLLM 0.32", "SGLang 0.5.23"
CT, SQUARE = "compressed-tensors", ((4096, 4096),)


def w(bits: int, group: int | None = 128, symmetric: bool = True) -> IntScheme:
    return IntScheme(bits=bits, group_size=group, symmetric=symmetric)


CASES: list[tuple[str, str, QuantScheme, tuple[int, int] | None, str, str]] = [
    (VLLM, CT, w(4), (8, 9), "Marlin", "widens"),
    (VLLM, CT, w(4), (9, 0), "Machete", "widens"),
    (VLLM, CT, w(4, 32), (9, 0), "Marlin", "widens"),  # Machete has no groups of 32
    (VLLM, CT, w(4), (7, 0), "", "fails"),
    (VLLM, CT, w(4), None, "CPUWNA16", "widens"),
    (VLLM, CT, w(8, 128, False), (8, 6), "Conch, a package of its own", "widens"),
    (VLLM, CT, w(3), (8, 9), "Humming, a package of its own", "widens"),
    (VLLM, CT, w(3), None, "", "unknown"),
    (VLLM, CT, COMPRESSED_TYPES["W8A8"], (9, 0), "CUTLASS int8", "computes"),
    (VLLM, CT, COMPRESSED_TYPES["W8A8"], (12, 0), "", "fails"),
    (VLLM, CT, COMPRESSED_TYPES["W4AFP8"], (9, 0), "CutlassW4A8", "computes"),
    (VLLM, CT, COMPRESSED_TYPES["W4AFP8"], (8, 9), "", "fails"),
    (VLLM, CT, COMPRESSED_TYPES["FP8_BLOCK"], (8, 9), "CUTLASS FP8", "computes"),
    (VLLM, CT, COMPRESSED_TYPES["FP8_DYNAMIC"], (8, 6), "Marlin", "widens"),
    (VLLM, CT, COMPRESSED_TYPES["NVFP4"], (10, 0), "CUTLASS or FlashInfer FP4", "computes"),
    (VLLM, CT, COMPRESSED_TYPES["NVFP4A16"], (8, 0), "Marlin", "widens"),
    (VLLM, CT, COMPRESSED_TYPES["MXFP4"], (7, 5), "", "fails"),
    (VLLM, CT, COMPRESSED_TYPES["MXFP4A16"], (8, 0), "emulation", "emulates"),
    (VLLM, "gptq", w(4), (6, 1), "Exllama", "widens"),
    (VLLM, "gptq_v2", w(4, 128, False), (9, 0), "", "fails"),
    (VLLM, "gptq", w(3), (9, 0), "", "fails"),
    (VLLM, "awq", w(4, 128, False), (8, 0), "Marlin", "widens"),
    (VLLM, "bitsandbytes", CodebookScheme(codebook="nf4"), (9, 0), "", "fails"),
    (VLLM, "gguf", GgmlScheme(type="Q4_K"), (9, 0), "", "fails"),
    (VLLM, "fp8", COMPRESSED_TYPES["FP8_BLOCK"], (8, 6), "Marlin", "widens"),
    (VLLM, "modelopt", COMPRESSED_TYPES["NVFP4"], (12, 0), "CUTLASS or FlashInfer FP4", "computes"),
    (SGLANG, "modelopt", COMPRESSED_TYPES["MXFP8"], (10, 0), "", "fails"),
    (SGLANG, CT, w(3), (9, 0), "", "fails"),
    (SGLANG, CT, COMPRESSED_TYPES["MXFP4"], (10, 0), "", "fails"),
    (SGLANG, CT, COMPRESSED_TYPES["NVFP4"], (9, 0), "", "fails"),
    (SGLANG, "bitsandbytes", Int8RowScheme(), (8, 0), "bitsandbytes", "widens"),
    ("transformers 5", CT, w(3), None, "torch", "expands"),
    ("llama.cpp", "gguf", GgmlScheme(type="Q4_K"), None, "ggml-cpu, inputs rounded to 8 bits per block", "computes"),
]


@pytest.mark.parametrize(("engine", "format", "scheme", "capability", "kernel", "how"), CASES)
def test_the_kernel_that_runs(
    engine: str, format: str, scheme: QuantScheme, capability: tuple[int, int] | None, kernel: str, how: str
) -> None:
    row = find_kernel(engine, format, scheme, capability, SQUARE)  # type: ignore[arg-type]
    assert (row.kernel, row.how) == (kernel, how)
    assert row.source
    assert row.kernel or row.because


def test_sizes_that_a_kernel_does_not_take() -> None:
    assert find_kernel(VLLM, CT, COMPRESSED_TYPES["W4AFP8"], (9, 0), ((4096, 4032),)).how == "fails"
    assert find_kernel(VLLM, CT, w(4, None), None, ((4096, 48),)).kernel == ""


def test_every_format_is_spoken_of_and_every_row_is_met() -> None:
    for format in get_args(ArtifactFormat):
        if format == "safetensors":  # floats alone, which every engine runs
            continue
        assert VLLM in engines_of(format)
    token = ActivationScheme(element="e4m3", scaling="token")
    schemes: list[QuantScheme] = [
        *COMPRESSED_TYPES.values(),
        *(w(bits, group, symmetric) for bits in (3, 4, 8) for group in (32, 64, 128, None) for symmetric in (0, 1)),
        IntScheme(bits=4, group_size=None, activations=token),
        MinifloatScheme(element="e4m3", scaling="channel"),
        CodebookScheme(codebook="fp4"),
        Int8RowScheme(),
        GgmlScheme(type="Q6_K"),
    ]
    devices = [None, (5, 0), (6, 0), (6, 1), (7, 5), (8, 0), (8, 9), (9, 0), (10, 0), (12, 0)]
    met = {
        id(find_kernel(row.engine, format, scheme, device))  # type: ignore[arg-type]
        for row in kernels()
        for format in row.formats
        for scheme in schemes
        for device in devices
    }
    here = [row for row in kernels() if not row.architectures]  # others: tests/planner/test_platforms.py
    assert [row for row in here if id(row) not in met] == []
    assert all(row.source for row in otherwise())
