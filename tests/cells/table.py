"""Methods × formats × loaders, as data: what is written in every type by every method, and who must read it how.

A row is a type of a format; its cells are its methods. What a row leaves out the planner must refuse, and what the
planner allows a row must hold: `test_table.py` compares the two. A new format, type or method therefore needs a row
here, and `make cells` then writes the page.

Integers of every width meet every method and every grouping, but not all pairs: method and grouping go round together
(`GROUPS`).

Not here: how a loader is called (loaders.py), the model (test_cells.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from bitwright.core.plan import Override

LLAMA_CPP, TRANSFORMERS, CONVERTED, DEQUANTIZER, GPTQMODEL, VLLM = (
    "llama.cpp", "transformers", "transformers, converted", "compressed-tensors", "GPTQModel", "vLLM",
)  # fmt: skip
FITTED = ("rtn", "gptq", "awq")
INTEGERS = (*FITTED, "zeroquant")  # what chooses integers
ROUNDING = (*FITTED, "smoothquant")  # what suits types that round inputs
ALL = (*FITTED, "smoothquant", "zeroquant")
GROUPS: tuple[int | None, ...] = (32, 128, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """A loader and what it makes of the artifact.

    `limit` is the largest distance of its logits from ours (loaders.py: `distance`). `refuses` are words of a refusal
    that is certain; with `limit` too, of one that depends on the processor. `weights_only`: it leaves inputs as they
    are, whatever the type says. `methods` narrows the row's.
    """

    loader: str
    limit: float = 0.0
    refuses: str = ""
    dtype: str = "float32"
    weights_only: bool = False
    methods: tuple[str, ...] = ALL


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A type: its name on the page, what `make_plan` is asked for, and who loads it. `groups` is by method.

    `vision` is the family of a vision-language model that takes the place of the text model, `parts` what becomes of
    its tower and projector.
    """

    format: str
    type: str
    ask: Mapping[str, Any]
    uses: tuple[Use, ...]
    methods: tuple[str, ...] = FITTED
    groups: tuple[int | None, ...] = ()
    vision: str = ""
    parts: tuple[str | None, str | None] = (None, None)

    def choices(self, method: str) -> dict[str, Any]:
        """Arguments of `make_plan`."""
        chosen = {"format": self.format, "method": method, **self.ask}
        if self.groups and method in self.methods:
            chosen["group_size"] = self.groups[self.methods.index(method) % len(self.groups)]
        return chosen


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One artifact in one loader."""

    row: Row
    method: str
    use: Use

    @property
    def key(self) -> tuple[str, str, str, str]:
        return self.row.format, self.row.type, self.method, self.use.loader


def _turned(by: int, groups: tuple[int | None, ...] = GROUPS) -> tuple[int | None, ...]:
    return tuple(groups[(by + index) % len(groups)] for index in range(len(groups)))


def _vllm(limit: float = 0.0, *, refuses: str = "", dtype: str = "float32", smooth: bool = False) -> Use:
    methods = ("rtn", "smoothquant") if smooth else ("rtn",)
    return Use(loader=VLLM, limit=limit, refuses=refuses, dtype=dtype, methods=methods)


def _served(limit: float = 0.0, *, refuses: str = "") -> Use:
    """vLLM in bfloat16, which is all that it takes for some formats; rounded inputs differ from ours then."""
    return _vllm(limit, refuses=refuses, dtype="bfloat16")


# Without AVX-512 the library of vLLM for processors has no kernel for 4-bit weights; it does load them.
WNA16 = _vllm(0.05, refuses="cpu_gemm_wna16", dtype="bfloat16")
EXACT = Use(loader=TRANSFORMERS, limit=1e-4)
ROUNDED = Use(loader=TRANSFORMERS, limit=0.05)  # a value near the middle of two codes goes the other way
# the library decodes these to bfloat16 whatever it is told; ours are cast to it for the comparison
HALF = Use(loader=TRANSFORMERS, limit=0.05, dtype="bfloat16")
# compressed-tensors 0.20 forgets to pack zero points when transformers asks it for shapes
NO_ZEROS = Use(loader=TRANSFORMERS, refuses="ignore_mismatched_sizes")
# on a processor it widens the weights of fp8 folders, and rounds no inputs
WIDENED = Use(loader=TRANSFORMERS, limit=0.02, dtype="bfloat16", weights_only=True)
NO_KERNEL = "Failed to find a kernel"


def _ggml(type: str, limit: float, methods: tuple[str, ...] = FITTED) -> Row:
    use = Use(loader=LLAMA_CPP, limit=limit)
    return Row(format="gguf", type=type, ask={"type": type}, uses=(use,), methods=methods)


def _packed(bits: int, symmetric: bool, *more: Use) -> Row:
    """Integers under 16-bit inputs in compressed-tensors."""
    dense = Use(loader=DEQUANTIZER, limit=0.02)  # it multiplies in the type of the scales, bfloat16
    return Row(
        format="compressed-tensors", type=f"W{bits}A16 {'sym' if symmetric else 'asym'}",
        ask={"bits": bits, "symmetric": symmetric}, groups=_turned(bits), methods=INTEGERS,
        uses=(EXACT if symmetric else NO_ZEROS, dense, *more),
    )  # fmt: skip


def _named(type: str, *uses: Use, methods: tuple[str, ...] = ROUNDING) -> Row:
    """A type of compressed-tensors with a name of its own."""
    return Row(format="compressed-tensors", type=type, ask={"type": type}, uses=uses, methods=methods)


def _mixed(what: str, override: Override, *uses: Use) -> Row:
    """4-bit integers, and something else for the down projections."""
    asked = {"bits": 4, "group_size": 128, "overrides": (override,)}
    return Row(format="compressed-tensors", type=f"W4A16 sym, down_proj {what}", ask=asked, uses=uses, methods=INTEGERS)


def _folder(format: str, type: str, *uses: Use, rounds: bool = True) -> Row:
    """Floats of few bits in the folders of other tools, each also as compressed-tensors with the same codes."""
    half = type.startswith(("NVFP4", "MXFP8"))
    carried = Use(loader=CONVERTED, limit=0.05, dtype=HALF.dtype if half else "float32")
    return Row(
        format=format, type=type, ask={"type": type}, uses=(carried, *uses),
        methods=ROUNDING if rounds else FITTED,
    )  # fmt: skip


def _gptq(format: str, bits: int, symmetric: bool, *more: Use) -> Row:
    return Row(
        format=format, type=f"W{bits}A16 {'sym' if symmetric else 'asym'}",
        ask={"bits": bits, "symmetric": symmetric}, groups=_turned(bits), methods=INTEGERS,
        uses=(Use(loader=GPTQMODEL, limit=1e-3, dtype="float16"), *more),
    )  # fmt: skip


def _ordered(format: str, *more: Use) -> Row:
    """Groups in the order of weight, `g_idx`."""
    asked = {"bits": 4, "act_order": "group"}
    return Row(
        format=format, type="W4A16 sym, act-order", ask=asked, groups=(32,), methods=("gptq",),
        uses=(Use(loader=GPTQMODEL, limit=1e-3, dtype="float16"), *more),
    )  # fmt: skip


def _vision(family: str, what: str = "", parts: tuple[str | None, str | None] = (None, None)) -> Row:
    """The decoder in 4 bits, tower and projector as they were unless `parts` say otherwise."""
    return Row(
        format="compressed-tensors", type=f"W4A16 sym, {family}{what}", ask={"bits": 4}, groups=(32,), methods=INTEGERS,
        uses=(EXACT,), vision=family, parts=parts,
    )  # fmt: skip


def _bitsandbytes(type: str, limit: float) -> Row:
    return Row(
        format="bitsandbytes", type=type, ask={"type": type}, uses=(Use(loader=TRANSFORMERS, limit=limit),),
        methods=("rtn",),
    )  # fmt: skip


def _cast(type: str, *more: Use) -> Row:
    use = Use(loader=TRANSFORMERS, limit=1e-5)
    return Row(format="safetensors", type=type, ask={"type": type}, uses=(use, *more), methods=("rtn",))


ROWS: tuple[Row, ...] = (
    _ggml("F32", 0.01, ("rtn",)),  # keys and values are cached in half precision
    _ggml("F16", 0.02, ("rtn",)),
    _ggml("BF16", 0.03, ("rtn",)),
    # inputs of quantized products are rounded to 8 bits
    *(_ggml(type, 0.1) for type in (
        "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q2_K_S", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_K_S", "Q4_K_M",
        "Q5_K_S", "Q5_K_M", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4",
    )),
    Row(
        format="gguf", type="Q8_0, llava's decoder", ask={"type": "Q8_0"}, uses=(Use(loader=LLAMA_CPP, limit=0.1),),
        vision="llava",
    ),
    *(_packed(bits, True) for bits in (2, 3)),
    _packed(4, True, WNA16),
    *(_packed(bits, True) for bits in (5, 6, 7)),
    _packed(8, True, _vllm(refuses=NO_KERNEL)),
    *(_packed(bits, False) for bits in (2, 3)),
    _packed(4, False, WNA16),
    *(_packed(bits, False) for bits in (5, 6, 7, 8)),
    _named("W8A8", ROUNDED, _vllm(0.08, smooth=True), methods=ALL),  # scales by 127, not 127.5
    _named("W8A8_STATIC", ROUNDED, _vllm(0.05, smooth=True), methods=ALL),
    _named("W4AFP8", ROUNDED, _vllm(refuses="No compressed-tensors compatible scheme"), methods=ALL),
    _named("FP8_DYNAMIC", ROUNDED, _vllm(0.05, smooth=True)),
    _named("FP8", ROUNDED, _vllm(refuses="static_scaled_fp8_quant")),
    _named("FP8_BLOCK", ROUNDED, _vllm(0.08, refuses="AMX")),
    _named("NVFP4", HALF, _vllm(refuses=NO_KERNEL)),
    _named("NVFP4A16", HALF, _vllm(refuses="MarlinNvFp4LinearKernel is not supported"), methods=FITTED),
    _named("MXFP4", HALF, _vllm(refuses=NO_KERNEL)),
    _named("MXFP4A16", HALF, _vllm(refuses=NO_KERNEL), methods=FITTED),
    _named("MXFP8", HALF, _vllm(refuses=NO_KERNEL)),
    _mixed("8 bits", Override(pattern="*.down_proj", type="W8A16 g128 sym"), EXACT, _vllm(refuses=NO_KERNEL)),
    _mixed("kept", Override(pattern="*.down_proj"), EXACT, WNA16),
    *(_vision(family) for family in ("llava", "qwen2_vl", "smolvlm", "internvl")),
    _vision("llava", ", tower and projector 8 bits", ("int8", "int8")),
    *(_gptq("gptq", bits, True) for bits in (2, 3)),
    _gptq("gptq", 4, True, WNA16),
    _gptq("gptq", 8, True, _vllm(refuses="Marlin does not support weight_bits", dtype="bfloat16")),
    _ordered("gptq", Use(loader=VLLM, refuses="desc_act", dtype="bfloat16")),
    *(_gptq("gptq_v2", bits, True) for bits in (2, 3, 4, 8)),
    *(_gptq("gptq_v2", bits, False) for bits in (2, 3)),
    _gptq("gptq_v2", 4, False, _vllm(refuses="Unsupported quantization config", dtype="bfloat16")),
    _gptq("gptq_v2", 8, False),
    _ordered("gptq_v2"),
    Row(
        format="awq", type="W4A16 asym", ask={"bits": 4}, groups=_turned(0, (32, 64, 128)), methods=INTEGERS,
        uses=(Use(loader=DEQUANTIZER, limit=0.02), Use(loader=GPTQMODEL, limit=0.005, dtype="float16"), WNA16),
    ),
    _bitsandbytes("NF4", 0.05),
    _bitsandbytes("NF4_DQ", 0.05),
    _bitsandbytes("FP4", 0.05),
    _bitsandbytes("FP4_DQ", 0.05),
    _bitsandbytes("LLM.int8", 0.15),  # rounds inputs
    _folder("fp8", "FP8_BLOCK", WIDENED, _served(0.15, refuses="AMX")),
    _folder("fp8", "FP8", _served(refuses="static_scaled_fp8_quant")),
    _folder("fp8", "FP8_TENSOR", _served(refuses="static_scaled_fp8_quant")),
    _folder("modelopt", "NVFP4", _served(refuses=NO_KERNEL)),
    _folder("modelopt", "NVFP4A16", _served(refuses="MarlinNvFp4LinearKernel is not supported"), rounds=False),
    _folder("modelopt", "FP8", _served(refuses="silu_and_mul_quant")),
    _folder("modelopt", "FP8_DYNAMIC", _served(0.15)),
    _folder("modelopt", "MXFP8", _served(refuses=NO_KERNEL)),
    _cast("F32"),
    _cast("F16"),
    _cast("BF16", _vllm(0.01)),
)  # fmt: skip


def cells() -> Iterator[Cell]:
    """All, row by row."""
    for row in ROWS:
        for method in row.methods:
            yield from (Cell(row=row, method=method, use=use) for use in row.uses if method in use.methods)
